"""Where does guidance blow up? Norms along runs at many scales, and the scale at which each leaves its band."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch

from sigmafield.core.annotations import Range
from sigmafield.core.arrays import Latent
from sigmafield.core.parameters import settle
from sigmafield.core.plain import to_plain
from sigmafield.core.process import Span
from sigmafield.core.protocols import Ctx, Pred, State
from sigmafield.lab.bench import Bench, Opened
from sigmafield.lab.columns import NFE, Column, label_of
from sigmafield.lab.drawing import distinct, lines, logarithmic, rows_of, summary
from sigmafield.lab.experiment import Arm, Experiment, Reading, Shown, Value
from sigmafield.lab.plot import figure
from sigmafield.lab.reference import rms
from sigmafield.lab.statistics import Interval, interval
from sigmafield.lab.studies.study import Study
from sigmafield.lab.subject import SubjectOptions, names_in, numbers_in
from sigmafield.recipes.build import Job
from sigmafield.runs.run import iterate

if TYPE_CHECKING:
    from polars import DataFrame

PLAIN = "none"
"""Label of classifier-free guidance without mods."""

CERTAIN = 0.99
"""Probability that a new seed at cfg = 1 is within a band at one step, if norms are normally distributed over seeds."""

NORMS = {"x": "norm of the latent", "d": "norm of d = (x − D)/σ"}
"""The norms, by the names of their columns."""

COLUMNS = {
    "nfe": NFE,
    "x": Column("rms of the latent", "before each step"),
    "d": Column("rms of d = (x − D)/σ", "the slope of the ODE, at each step"),
    "final": Column("rms of the result"),
    "energy": Column(
        "control energy ∫ mean (D − U)² dσ",
        "what guidance adds to the unconditional prediction U, squared: without mods w (C − U), with w = cfg",
    ),
    "added": Column(
        "energy beyond the prompt ∫ mean (D − C)² dσ",
        "what guidance adds to the prediction C for the prompt, squared: without mods (w − 1) (C − U)",
    ),
}
"""The measured columns of all models."""

SATURATED = {
    "saturated": Column("share of saturated values", "values of the result's pixels that are 0 or 255"),
    "saturation": Column(
        "share of saturated values along the run",
        "values of the prediction D at the ends of black and white, as a rough image by the linear map of the latent's "
        "format; decoded, where the format has none",
    ),
}
"""The columns of networks."""


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions:
    """Scales and mods.

    Args:
        cfgs: Guidance scales, with commas between them; 1, which the bands are made of, is added.
        mods: Guidance mods, with commas between them, such as "none,apg(eta=0.5)+cfg_norm"; none is plain guidance.
        sampler: Sampler of all runs.
        schedule: Schedule of all runs.
        steps: Number of steps of all runs.
    """

    cfgs: str | Sequence[float] = "1,2,3,5,8,12,20,30"
    mods: str | Sequence[str] = "none,rescale,apg(form=paper,eta=0),cfg_norm"
    sampler: str = "euler"
    schedule: str = "karras"
    steps: Annotated[int, Range(2, 1000)] = 20

    def __post_init__(self) -> None:
        cfgs = numbers_in("cfgs", self.cfgs)
        object.__setattr__(self, "cfgs", tuple(sorted({1.0, *cfgs})))
        object.__setattr__(self, "mods", names_in("mods", self.mods))
        settle(self, "lab guidance")


def measured(bench: Bench, arm: Arm) -> Mapping[str, Value]:
    """Runs an arm, and measures norms and saturation at every step, and the energy of what guidance adds."""
    opened = bench.open(arm.recipe)
    run, start = opened.run()
    sigmas, state = run.grid.sigmas, start
    found: dict[str, list[float]] = {"x": [], "d": []} | ({} if opened.job is None else {"saturation": []})
    energy = added = 0.0
    for after, (sigma, sigma_next) in zip(iterate(run, start, allow_nonfinite=True), itertools.pairwise(sigmas)):
        pred = after.pred
        assert pred is not None
        found["x"].append(rms(state.x))
        found["d"].append(rms((state.x - pred.x0) / float(sigma)))
        if opened.job is not None:
            found["saturation"].append(saturation(opened.job, pred.x0))
        if pred.cond is not None:
            added += rms(pred.x0 - pred.cond) ** 2 * float(sigma - sigma_next)
        whole = pred if pred.uncond is not None else both(opened, run.span(state.i), state)
        energy += rms(whole.x0 - whole.U) ** 2 * float(sigma - sigma_next)
        state = after
    values: dict[str, Value] = {"nfe": state.nfe, **found, "final": rms(state.x), "energy": energy, "added": added}
    if opened.job is not None:
        pixels = np.stack([np.asarray(image) for image in opened.job.images(state)])
        values["saturated"] = float(((pixels == 0) | (pixels == 255)).mean())
    return values


@torch.no_grad()
def both(opened: Opened, span: Span, state: State) -> Pred:
    """The prediction at the first level of a span with its unconditional part, which runs at cfg = 1 do not evaluate.

    It is a call of the network on top of those of the run.
    """
    return opened.denoise(state.x, span.sigma, Ctx(span, dict(state.aux), need_uncond=True))


@torch.no_grad()
def saturation(job: Job, x0: Latent) -> float:
    """Share of the values of a predicted clean latent's image that are at the ends of their range.

    The image is the rough one of the format's linear map, which is so fast that it can be had at every step.
    """
    latent = job.pipe.model.latent
    seen = latent.to_rgb(x0) if latent.rgb else job.pipe.decode(x0)
    return float(((seen <= 0) | (seen >= 1)).double().mean())


def guidance(subject: SubjectOptions, options: GuidanceOptions) -> Experiment:
    """The experiment with these options."""
    shared = {"sampler": options.sampler, "schedule": options.schedule, "steps": options.steps}
    arms = [
        Arm(
            {"mods": mods, "cfg": float(cfg)},
            subject.recipe(**shared, cfg=float(cfg), guidance="" if mods == PLAIN else mods, allow_nonfinite=True),
        )
        for mods in options.mods
        for cfg in options.cfgs
    ]
    return Experiment(
        "guidance",
        "Where does guidance blow up: at which scale do norms along a run leave the band that they have at cfg = 1, "
        "and which mod holds them?",
        {**to_plain(subject), **to_plain(options)},
        arms,
        subject.seed_list,
        measured,
        COLUMNS if subject.is_analytic else {**COLUMNS, **SATURATED},
        read,
        [
            "Whether an image is better: a norm within its band does not make it so, and people often prefer a scale "
            "at which norms are outside.",
            f"The band at each step is the {CERTAIN:.0%} prediction interval for one more seed at cfg = 1, which takes "
            "the norm to be normally distributed over seeds; with few seeds it is wide.",
            "One prompt stands for all; other prompts have other bands.",
            *(
                []
                if subject.is_analytic
                else ["Saturation along the run is that of rough images, not of decoded ones."]
            ),
        ],
    )


def read(table: DataFrame) -> Reading:
    """Bands, the scale at which each norm leaves its own, and what each mod does to that."""
    findings: list[str] = []
    known, network = {**COLUMNS, **SATURATED}, "saturated" in table.columns
    columns = ["final", "energy"] + ["saturated"] * network
    mods = distinct(table, "mods")
    bands = {norm: band(table, norm) for norm in NORMS}
    for norm, about in NORMS.items():
        held = [share_within(table, norm, k) for k in range(len(distinct(table, "seed")))]
        findings.append(f"At cfg = 1 the {about} is within its band, made of the other seeds, in a share of "
                        f"{interval(held)} of the steps.")  # fmt: skip
        for name in mods:
            findings.append(leaving(rows_of(table, mods=name), norm, about, bands[norm], name))
    if network:
        findings += [peaks(rows_of(table, mods=name), name) for name in mods]
    out, axes = figure(len(columns), size=(4.6, 3.8))
    for one, column in zip(axes, columns):
        lines(one, table, "cfg", column, "mods", known)
        logarithmic(one, distinct(table, "cfg"), y=column == "energy" and (table[column] > 0).any())
    axes[0].legend(fontsize=8)
    figures = {"scales": Shown("Size of the result, control energy and saturation against cfg, with intervals.", out)}
    curves = [*NORMS] + ["saturation"] * network
    out, axes = figure(len(curves), size=(5.4, 4.0))
    plain = rows_of(table, mods=mods[0])
    for one, column in zip(axes, curves):
        if column in NORMS:
            low, high = bands[column]
            one.fill_between(range(len(low)), low, high, color="0.85", label="band of cfg = 1")
        for cfg in distinct(plain, "cfg"):
            rows = rows_of(plain, cfg=cfg)
            one.plot(np.mean(np.array(rows[column].to_list()), axis=0), linewidth=1, label=f"cfg {cfg:g}")
        one.set(xlabel="step", ylabel=label_of(column, known), yscale="log" if column in NORMS else "linear")
        one.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    about = "Norms and saturation" if network else "Norms"
    figures["norms"] = Shown(f"{about} along the run with mods = {mods[0]}, means over seeds, and the bands.", out)
    scales = summary(table, ["mods", "cfg"], [*columns, "added"], known)
    return Reading(findings, figures, {"By scale": scales})


def band(table: DataFrame, norm: str, without: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) end at each step of the interval that a norm of one more seed at cfg = 1 is expected in.

        mean ± t s √(1 + 1/n),   s the deviation over n seeds, t Student's quantile of n − 1 degrees of freedom

    Args:
        table: The whole table.
        norm: Column of the norm.
        without: A seed, by its number in the list, that is left out.
    """
    from scipy.stats import t  # slow to import

    curves = _curves(table, norm)
    kept = curves if without is None else np.delete(curves, without, axis=0)
    n = len(kept)
    if n < 2:
        return np.full(curves.shape[1], -np.inf), np.full(curves.shape[1], np.inf)
    half = float(t.ppf(0.5 + CERTAIN / 2, n - 1)) * kept.std(0, ddof=1) * (1 + 1 / n) ** 0.5
    return kept.mean(0) - half, kept.mean(0) + half


def share_within(table: DataFrame, norm: str, k: int) -> float:
    """The share of the steps at which seed number k at cfg = 1 is within the band that the other seeds make."""
    curve, (low, high) = _curves(table, norm)[k], band(table, norm, without=k)
    return float(((curve >= low) & (curve <= high)).mean())


def leaving(rows: DataFrame, norm: str, about: str, ends: tuple[np.ndarray, np.ndarray], name: str) -> str:
    """A sentence about the least scale at which the mean of a norm leaves its band at some step."""
    low, high = ends
    with_mods = "without mods" if name == PLAIN else f"with {name}"
    for cfg in sorted(distinct(rows, "cfg")):
        curves = np.array(rows_of(rows, cfg=cfg)[norm].to_list(), dtype=np.float64)
        centre = curves.mean(0)
        out = ~((centre >= low) & (centre <= high))  # not a number is outside
        if out.any():
            k = int(out.nonzero()[0][0])
            there, last = (interval(curves[:, at] / ((low[at] + high[at]) / 2)) for at in (k, -1))
            return (
                f"{with_mods[0].upper()}{with_mods[1:]} the {about} leaves its band at cfg = {cfg:g}, first at step "
                f"{k}, where it is {there} times the middle of the band; at the last step it is {last} times."
            )
    top = max(distinct(rows, "cfg"))
    return f"{with_mods[0].upper()}{with_mods[1:]} the {about} stays within its band up to cfg = {top:g}."


def peaks(rows: DataFrame, name: str) -> str:
    """A sentence about the step at which most values are saturated, at the largest scale and at 1."""
    top = max(distinct(rows, "cfg"))
    most: list[Interval] = []
    for cfg in (top, 1.0):
        curves = np.array(rows_of(rows, cfg=cfg)["saturation"].to_list(), dtype=np.float64)
        most.append(interval(curves.max(1)))
    with_mods = "Without mods" if name == PLAIN else f"With {name}"
    return (
        f"{with_mods} the share of saturated values along the run is at most {most[0]} at cfg = {top:g}, "
        f"and {most[1]} at cfg = 1."
    )


def _curves(table: DataFrame, norm: str) -> np.ndarray:
    """A norm at each step of the runs at cfg = 1 without mods, or with the first ones, [seeds, steps]."""
    rows = rows_of(table, cfg=1.0, mods=distinct(table, "mods")[0]).sort("seed")
    return np.array(rows[norm].to_list(), dtype=np.float64)


GUIDANCE = Study(
    "guidance", GuidanceOptions, guidance,
    quick={"cfgs": "1,3,8,20", "mods": "none,apg(form=paper,eta=0)", "steps": 10}, quick_subject={"seeds": 4},
    subject={"model": "tiny"},
)  # fmt: skip
"""`sigmafield lab guidance`."""
