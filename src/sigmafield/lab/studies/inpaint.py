"""What does the projection of a mask cost? Ways to keep a part of an image, against the exact conditional law."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from sigmafield.core.annotations import Range
from sigmafield.core.arrays import Latent
from sigmafield.core.grid import Grid
from sigmafield.core.parameters import settle
from sigmafield.core.plain import to_plain
from sigmafield.lab.bench import Bench, Opened
from sigmafield.lab.columns import NFE, Column, label_of
from sigmafield.lab.convergence import alone
from sigmafield.lab.distances import energy_distance
from sigmafield.lab.drawing import distinct, lines, logarithmic, mean, rows_of, summary, values
from sigmafield.lab.experiment import Arm, Experiment, Reading, Shown, Value
from sigmafield.lab.plot import figure
from sigmafield.lab.reference import rms
from sigmafield.lab.squares import soft, square, step_across
from sigmafield.lab.statistics import difference, ratio
from sigmafield.lab.studies.study import Study
from sigmafield.lab.subject import SubjectOptions, counts_in, names_in
from sigmafield.noise.policy import default_noise
from sigmafield.noise.sources import seed_word
from sigmafield.recipes.execute import execute, open_job
from sigmafield.recipes.field_values import number, spec
from sigmafield.recipes.output import encoded
from sigmafield.runs.run import Run, finish
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.inpaint import Inpaint, differential

if TYPE_CHECKING:
    from polars import DataFrame

EXACT = "field"
"""The way of an analytic model whose prediction is exact: a σ-field that is 0 where the image is known."""

WAYS = {
    "hard": "the source, noised, replaces x outside of the mask at every evaluation",
    "soft": "the same with a mask that is blurred",
    "differential": "the blurred mask says when each position joins the run",
    EXACT: "a σ-field that is 0 outside of the mask",
}
"""The ways that are compared."""


PARTICLES = {
    "nfe": NFE,
    "inside": Column("distance in the square / rms", "energy distance to exact samples given the rest, over their rms"),
    "leakage": Column("leakage / rms", "rms change outside of the square, over the rms in it"),
    "border": Column("step across the border (exact: 1)", "rms step, over that of exact samples"),
}
"""What is measured on an analytic model."""

IMAGES = {
    "nfe": NFE,
    "leakage": Column(
        "leakage, values in 0 … 1", "rms change where the hard and the blurred mask are 0, the VAE's own loss included"
    ),
    "border": Column("step across the border (source: 1)", "rms step, over that of the source"),
    "changed": Column("change in the square, values in 0 … 1", "rms change"),
    "image": Column("image", "the result"),
}
"""What is measured on a network."""


@dataclass(frozen=True, kw_only=True)
class InpaintOptions:
    """Ways to keep a part of an image, and the runs.

    Args:
        ways: Of hard, soft, differential and field, with commas between them.
        steps: Numbers of steps, with commas between them.
        sampler: Sampler of all runs.
        schedule: Schedule of all runs.
        share: Side of the square that is drawn again, as a share of the image's side.
        feather: Blur of soft masks, as a share of the image's side.
        cfg: Guidance scale of a network.
    """

    ways: str | Sequence[str] = "hard,soft,differential,field"
    steps: str | Sequence[int] = "10,20,40"
    sampler: str = "dpmpp_2m"
    schedule: str = "karras"
    share: Annotated[float, Range(0, 1, above=True, below=True)] = 0.5
    feather: Annotated[float, Range(0, 0.5)] = 0.125
    cfg: Annotated[float, Range(0, 100)] = 3.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ways", names_in("ways", self.ways))
        object.__setattr__(self, "steps", counts_in("steps", self.steps, 2))
        settle(self, "lab inpaint")
        for name in self.ways:
            if name not in WAYS:
                raise ValueError(f"ways must be of {', '.join(WAYS)}; got {name!r}")


@dataclass(frozen=True)
class OnParticles:
    """Draws a square of samples of a distribution again, and compares it with the exact conditional law.

    Args:
        share: See `InpaintOptions`.
        feather: See `InpaintOptions`.
    """

    share: float
    feather: float

    def __call__(self, bench: Bench, arm: Arm) -> Mapping[str, Value]:
        opened, way = bench.open(arm.recipe), str(arm.labels["way"])
        law = opened.law
        assert law is not None
        mask = square(law.shape[-1], self.share)
        known = law.drawn(1, 0.0, _generator(arm, 4))[0]
        result, nfe = drawn_again(opened, known, mask, self.feather, way)
        hidden = (mask > 0).expand(law.shape)
        exact = law.given(known, hidden, arm.recipe.batch, _generator(arm, 5))
        inside = [each[:, hidden] for each in (result, exact)]
        scale = float(inside[1].square().mean().sqrt())
        return {
            "nfe": nfe,
            "inside": energy_distance(*inside) / scale,
            "leakage": rms((result - known)[:, ~hidden]) / scale,
            "border": step_across(result, mask) / step_across(exact, mask),
        }


def drawn_again(opened: Opened, known: Tensor, mask: Tensor, feather: float, way: str) -> tuple[Latent, int]:
    """(samples whose square is drawn again, evaluations), one of the `WAYS`.

    Args:
        opened: An analytic model, ready to run.
        known: The sample that is kept outside of the square, [C, *space].
        mask: 1 in the square, [height, width].
        feather: Blur of soft masks, as a share of the side.
        way: One of the `WAYS`.
    """
    process, sigmas, law = opened.process, opened.sigmas(), opened.law
    assert law is not None
    source = known.expand_as(opened.source)
    hard = mask.expand_as(source)
    begin = torch.where(hard > 0, opened.source, source)
    sampler = spec(opened.recipe.sampler)
    row = SAMPLERS.lookup(sampler.name)
    if way == EXACT:
        field = sigmas.reshape(-1, 1, 1, 1, 1) * mask
        grid = Grid(field, process, clock=opened.sampling.clock)
        x = begin + field[0] * opened.noise
        denoise: Any = alone(law)
    else:
        grid = Grid(sigmas, process, clock=opened.sampling.clock)
        x = process.start(sigmas[0], opened.noise, begin)
        used = hard if way == "hard" else soft(mask, feather).expand_as(source)
        mask_of = {"mask_of": differential(opened.sampling.levels, sigmas)} if way == "differential" else {}
        denoise = Inpaint(opened.denoise, source, opened.noise, used, process, **mask_of)
    noise = default_noise(row.noise, number(opened.recipe.seed), grid, x)
    run = Run(denoise, row, grid, noise, sampler.params)
    last = finish(run, x)
    return last.x, last.nfe


@dataclass(frozen=True)
class OnImages:
    """Draws a square of a network's own image again, with another seed.

    Args:
        share: See `InpaintOptions`.
        feather: See `InpaintOptions`.
    """

    share: float
    feather: float

    def __call__(self, bench: Bench, arm: Arm) -> Mapping[str, Value]:
        recipe, way = arm.recipe, str(arm.labels["way"])
        pipe = bench.pipe(recipe)
        first = replace(recipe, seed=number(recipe.seed) + 10_000, steps=20)
        source: Image.Image = bench.kept(
            ("source", first.to_json()), lambda: execute(open_job(first, pipe)).images[0][0].convert("RGB")
        )
        side = min(source.size)
        mask = square(side, self.share)
        hard = Image.fromarray((mask.numpy() * 255).astype(np.uint8))
        blurred = hard.filter(ImageFilter.GaussianBlur(self.feather * side / 2))
        given: dict[str, Any] = {
            "hard": {"mask": hard},
            "soft": {"mask": blurred},
            "differential": {"denoise_map": blurred},
            EXACT: {"denoise_map": hard},
        }[way]
        result = execute(open_job(replace(recipe, image=source, **given), pipe))
        image = _pixels(result.images[0][0])
        before = _pixels(source)
        outside = (mask == 0) & (torch.from_numpy(np.array(blurred)) == 0)
        return {
            "nfe": result.state.nfe,
            "leakage": rms((image - before)[..., outside]),
            "border": step_across(image, mask) / max(step_across(before, mask), 1e-6),
            "changed": rms((image - before)[..., mask > 0]),
            "image": encoded(result.images[0], ".png"),
        }


def _pixels(image: Image.Image) -> Tensor:
    values_ = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
    return torch.from_numpy(values_).permute(2, 0, 1)[None]


def _generator(arm: Arm, key: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_word(number(arm.recipe.seed), (key,)) % 2**63)


def inpaint(subject: SubjectOptions, options: InpaintOptions) -> Experiment:
    """The experiment with these options.

    Raises:
        ValueError: The analytic model has no space, so that nothing can be masked.
    """
    if subject.is_analytic and subject.model != "images":
        raise ValueError(f"inpainting needs images: of the analytic models, images has them; got {subject.model}")
    cfg = 1.0 if subject.is_analytic else options.cfg
    shared = {"sampler": options.sampler, "schedule": options.schedule, "cfg": cfg}
    arms = [
        Arm({"way": way, "steps": n}, subject.recipe(**shared, steps=n))
        for way, n in itertools.product(options.ways, map(int, options.steps))
    ]
    measure: Callable[..., Any] = OnParticles if subject.is_analytic else OnImages
    lost = "The error in the square: what a network should draw there is not known; the analytic model images has it."
    return Experiment(
        "inpaint",
        "What does the projection of a mask cost: in the square, outside of it, and at the border?",
        {**to_plain(subject), **to_plain(options)},
        arms,
        subject.seed_list,
        measure(options.share, options.feather),
        PARTICLES if subject.is_analytic else IMAGES,
        read,
        [
            *([] if subject.is_analytic else [lost]),
            "Networks that were trained for inpainting, which are given the mask.",
            "Other masks than a centred square.",
        ],
    )


def read(table: DataFrame) -> Reading:
    """Each way against the first, and its values at the largest number of steps."""
    findings: list[str] = []
    known = PARTICLES if "inside" in table.columns else IMAGES
    columns = [name for name in known if name not in ("nfe", "image")]
    n = max(distinct(table, "steps"))
    ways = distinct(table, "way")
    for way in ways:
        rows = rows_of(table, way=way, steps=n)
        said = ", ".join(f"{label_of(name, known)} {mean(rows, name)}" for name in columns)
        findings.append(f"{way} ({WAYS[way]}), {n} steps: {said}.")
    for way in ways[1:]:
        rows, first = rows_of(table, way=way, steps=n), rows_of(table, way=ways[0], steps=n)
        if "inside" in columns:
            apart = difference(values(rows, "inside"), values(first, "inside"))
            sure = "" if apart.excludes(0) else ": no difference can be told"
            findings.append(f"{way} against {ways[0]}, {n} steps: the distance in the square changes by {apart}{sure}.")
        step = ratio(values(rows, "border"), values(first, "border"))
        sure = "" if step.excludes(1) else ": no difference can be told"
        findings.append(f"{way} against {ways[0]}, {n} steps: the step across the border is {step} times{sure}.")
    out, axes = figure(len(columns), size=(4.0, 3.8))
    for one, column in zip(axes, columns):
        lines(one, table, "steps", column, "way", known)
        logarithmic(one, distinct(table, "steps"), y=False)
    axes[0].legend(fontsize=8)
    shown = Shown("Error in the square, leakage and step across the border; means over seeds with intervals.", out)
    return Reading(findings, {"inpaint": shown}, {"All arms": summary(table, ["way", "steps"], columns, known)})


INPAINT = Study(
    "inpaint", InpaintOptions, inpaint,
    quick={"steps": "10,20"}, quick_network={"steps": "10"}, subject={"model": "images", "particles": 256},
    quick_subject={"seeds": 4, "particles": 128},
)  # fmt: skip
"""`sigmafield lab inpaint`."""
