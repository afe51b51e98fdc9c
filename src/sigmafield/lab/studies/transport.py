"""How far is a path from optimal transport? Kinetic energy of runs against the exact Wasserstein distance."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from torch import Tensor

from sigmafield.core.annotations import Range
from sigmafield.core.parameters import settle
from sigmafield.core.plain import to_plain
from sigmafield.core.registry import Spec
from sigmafield.lab.bench import Bench
from sigmafield.lab.columns import NFE, Column
from sigmafield.lab.drawing import distinct, lines, logarithmic, mean, rows_of, summary, with_arms, words_of
from sigmafield.lab.experiment import Arm, Experiment, Reading, Shown, Value
from sigmafield.lab.plot import figure
from sigmafield.lab.statistics import Interval, interval
from sigmafield.lab.studies.study import Study
from sigmafield.lab.subject import SubjectOptions, counts_in, names_in, numbers_in
from sigmafield.runs.run import iterate
from sigmafield.samplers import SAMPLERS

if TYPE_CHECKING:
    from polars import DataFrame


COLUMNS = {
    "nfe": NFE,
    "energy": Column("kinetic energy", "∫ mean ‖v‖² dt of the paths, in the time in which it is least"),
    "length": Column("mean length of the paths"),
    "w2": Column("W₂²", "exact, between the particles at the start and at the end"),
    "coupling": Column("cost of the coupling", "mean squared distance between the two ends of a particle's path"),
    "over": Column("kinetic energy / W₂²", "at least 1"),
    "map_over": Column("coupling / W₂²", "at least 1; 1 where the map is the optimal one"),
    "straightness": Column(
        "straightness (coupling / energy)", "at most 1; 1 where paths are straight and speeds in proportion"
    ),
    "entropic": Column(
        "cost of the Schrödinger bridge", "of arms with noise: its mean squared displacement for the same noise"
    ),
}
"""The measured columns."""


@dataclass(frozen=True, kw_only=True)
class TransportOptions:
    """What varies: the noise of a sampler, the scale of guidance, the schedule.

    Args:
        samplers: Samplers, with commas between them.
        etas: Values of eta for those that draw noise, with commas between them; 0 is the ODE.
        cfgs: Guidance scales, with commas between them.
        schedules: Schedules whose levels above 0 are visited, with commas between them.
        steps: Numbers of steps, with commas between them.
        entropic: Whether the entropic cost of the same noise is computed for arms with noise.
        top: Share of the model's largest level that runs start from: shorter paths are bent less.
    """

    samplers: str | Sequence[str] = "heun,euler_ancestral"
    etas: str | Sequence[float] = "0,0.5,1"
    cfgs: str | Sequence[float] = "1,3"
    schedules: str | Sequence[str] = "exponential,karras"
    steps: str | Sequence[int] = "16,64"
    entropic: bool = True
    top: Annotated[float, Range(0, 1, above=True)] = 1.0

    def __post_init__(self) -> None:
        for name in ("samplers", "schedules"):
            object.__setattr__(self, name, names_in(name, getattr(self, name)))
        for name in ("etas", "cfgs"):
            object.__setattr__(self, name, numbers_in(name, getattr(self, name)))
        object.__setattr__(self, "steps", counts_in("steps", self.steps, 2))
        settle(self, "lab transport")


@dataclass(frozen=True)
class Measured:
    """Follows the particles of a run, and compares their path with the optimal one between its two ends.

    Args:
        entropic: Whether the entropic cost is computed for arms with noise.
        top: Share of the largest level that runs start from.
    """

    entropic: bool
    top: float

    def __call__(self, bench: Bench, arm: Arm) -> Mapping[str, Value]:
        opened = bench.open(arm.recipe)
        sigmas = opened.above_zero(str(arm.labels["schedule"]), arm.recipe.steps)
        sigmas = sigmas[sigmas <= self.top * float(sigmas[0]) * (1 + 1e-9)]
        run, start = opened.run(sigmas)
        states = [start, *iterate(run, start)]
        points = torch.stack([state.x.flatten(1).double() for state in states])
        cost, along = squared(points[0], points[-1]), path_of(points)
        w2, coupling = optimal(points[0], points[-1]), float(cost.diagonal().mean())
        variance = float(sigmas[0] ** 2 - sigmas[-1] ** 2)
        noisy = self.entropic and float(arm.labels["eta"]) > 0
        return {
            "nfe": states[-1].nfe,
            **along,
            "w2": w2,
            "coupling": coupling,
            "over": along["energy"] / w2,
            "map_over": coupling / w2,
            "straightness": coupling / along["energy"],
            "entropic": entropic_cost(cost, 2 * variance) if noisy else float("nan"),
        }


def path_of(points: Tensor) -> dict[str, float]:
    """Kinetic energy and length of the paths of particles, [steps + 1, particles, d].

        energy = (Σ_i √(mean ‖x_{i+1} − x_i‖²))²,   length = mean Σ_i ‖x_{i+1} − x_i‖

    The energy is ∫ mean ‖ẋ‖² dt over t in [0, 1] of the piecewise linear paths in the time in which it is least. It is
    at least mean ‖x_n − x_0‖², and that is at least W₂².
    """
    moves = (points[1:] - points[:-1]).square().sum(-1)
    return {
        "energy": float(moves.mean(1).sqrt().sum() ** 2),
        "length": float(moves.sqrt().sum(0).mean()),
    }


def squared(a: Tensor, b: Tensor) -> Tensor:
    """‖a_i − b_j‖², [n, m]."""
    return torch.cdist(a, b).square()


def optimal(a: Tensor, b: Tensor) -> float:
    """The exact W₂², squared, of two samples with as many points, by the network simplex method.

    Raises:
        ImportError: POT is not installed.
    """
    ot = _pot()
    n = len(a)
    weights = np.full(n, 1 / n)
    return float(ot.emd2(weights, weights, squared(a, b).numpy(), numItermax=1_000_000))


def entropic_cost(cost: Tensor, epsilon: float) -> float:
    """⟨P, C⟩ of the entropic plan P = argmin ⟨P, C⟩ + ε KL(P ‖ uniform), in the logarithmic domain.

    For ε = 2 s² it is the mean squared displacement of the Schrödinger bridge between the two samples, whose reference
    is a Brownian motion of variance s². The reversed diffusion with η = 1 is that bridge.

    Args:
        cost: C [n, m].
        epsilon: ε, above 0.
    """
    ot = _pot()
    n, m = cost.shape
    plan = ot.bregman.sinkhorn_log(np.full(n, 1 / n), np.full(m, 1 / m), cost.numpy(), epsilon, numItermax=2000)
    return float((np.asarray(plan) * cost.numpy()).sum())


def _pot() -> ModuleType:
    try:
        import ot
    except ImportError as error:
        raise ImportError('optimal transport needs POT: pip install "sigmafield[lab]"') from error
    return ot


def transport(subject: SubjectOptions, options: TransportOptions) -> Experiment:
    """The experiment with these options.

    Raises:
        ValueError: The model is a network, of which a run has one sample.
    """
    if not subject.is_analytic:
        raise ValueError(
            f"transport needs many particles, as analytic models have, such as mixture; got {subject.model}"
        )
    arms: list[Arm] = []
    for name, schedule, cfg, n in itertools.product(
        options.samplers, options.schedules, map(float, options.cfgs), map(int, options.steps)
    ):
        noisy = "eta" in SAMPLERS.lookup(name).parameters
        for eta in map(float, options.etas if noisy else [0.0]):
            spec = Spec(name, {"eta": eta}) if noisy else Spec(name)
            labels = {"sampler": name, "eta": eta, "schedule": schedule, "cfg": cfg, "steps": n}
            arms.append(Arm(labels, subject.recipe(sampler=spec, steps=n, cfg=cfg)))
    return Experiment(
        "transport",
        "How far is the path of a sampler from optimal transport between its two ends?",
        {**to_plain(subject), **to_plain(options)},
        arms,
        subject.seed_list,
        Measured(options.entropic, options.top),
        COLUMNS,
        read,
        [
            "Continuous paths: those of finitely many steps are chords, and noise makes longer paths with more steps.",
            "W₂ of the distributions themselves: it is that of finite samples, for which the inequality is exact.",
            "Networks: a run of a network has one sample.",
        ],
    )


def read(table: DataFrame) -> Reading:
    """Energy against W₂² by arm, and the coupling of SDEs against the Schrödinger bridge."""
    findings = [f"In every row the energy is at least W₂²: the least quotient is {table['over'].min():.6g}."]
    n = max(distinct(table, "steps"))
    by = ["sampler", "eta", "schedule", "cfg"]
    for arm in rows_of(table, steps=n).select(by).unique(maintain_order=True).to_dicts():
        rows = rows_of(table, steps=n, **arm)
        text = f"{words_of(arm)}, {n} steps: energy {mean(rows, 'over')} times W₂², "
        text += f"coupling {mean(rows, 'map_over')} times"
        if arm["eta"] > 0 and not np.isnan(rows["entropic"].to_numpy()).any():
            text += f"; coupling over the bridge's {bridge(rows)}"
        findings.append(text + ".")
    labelled = with_arms(table, by)
    out, axes = figure(3, size=(4.6, 4.0))
    for one, column in zip(axes, ("over", "map_over", "straightness")):
        lines(one, labelled, "steps", column, "arm", COLUMNS)
        logarithmic(one, sorted(distinct(table, "steps")), y=column == "over")
    axes[0].legend(fontsize=8)
    caption = "Energy and coupling over W₂², which are at least 1, and straightness; means over seeds with intervals."
    columns = ["energy", "w2", "over", "map_over", "straightness", "length"]
    return Reading(
        findings, {"transport": Shown(caption, out)}, {"All arms": summary(table, [*by, "steps"], columns, COLUMNS)}
    )


def bridge(rows: DataFrame) -> Interval:
    """Coupling of an arm over the mean squared displacement of the Schrödinger bridge, over seeds."""
    return interval(rows["coupling"].to_numpy() / rows["entropic"].to_numpy())


TRANSPORT = Study(
    "transport", TransportOptions, transport,
    quick={"etas": "0,1", "cfgs": "1", "schedules": "exponential", "steps": "16,64"},
    subject={"particles": 400}, quick_subject={"seeds": 4, "particles": 200},
)  # fmt: skip
"""`sigmafield lab transport`."""
