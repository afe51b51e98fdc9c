"""Do particles follow the Fokker–Planck marginals? Samplers against exact samples at every σ."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sigmafield.core.parameters import settle
from sigmafield.core.plain import to_plain
from sigmafield.core.registry import Spec
from sigmafield.lab.bench import Bench
from sigmafield.lab.columns import NFE, Column, label_of
from sigmafield.lab.distances import energy_distance, sliced_wasserstein
from sigmafield.lab.drawing import distinct, lines, logarithmic, mean, rows_of, summary, values, with_arms
from sigmafield.lab.experiment import Arm, Experiment, Reading, Shown, Value
from sigmafield.lab.plot import figure
from sigmafield.lab.statistics import difference, interval
from sigmafield.lab.studies.study import Study
from sigmafield.lab.subject import SubjectOptions, counts_in, names_in, numbers_in
from sigmafield.noise.sources import seed_word
from sigmafield.runs.run import iterate
from sigmafield.samplers import SAMPLERS

if TYPE_CHECKING:
    from polars import DataFrame


COLUMNS = {
    "nfe": NFE,
    "sigmas": Column("σ", "levels of the run"),
    "sliced": Column(
        "sliced Wasserstein distance / deviation",
        "at each level, to as many exact samples; of the marginal's deviation",
    ),
    "energy": Column(
        "energy distance / deviation", "at each level, without bias: 0 is expected for the same distribution"
    ),
    "means": Column("distance of the mean / deviation", "at each level, to the exact mean"),
    "spreads": Column("excess variance", "at each level, trace of the covariance against the exact one, less 1"),
    "end": Column("energy distance at the last level", "over the deviation of the marginal"),
    "end_sliced": Column("sliced distance at the last level", "over the deviation of the marginal"),
    "end_spread": Column("excess variance at the last level"),
    "floor": Column(
        "sliced distance of two exact samples", "at the last level: what no sampler can be expected to beat"
    ),
}
"""The measured columns."""


@dataclass(frozen=True, kw_only=True)
class MarginalsOptions:
    """Samplers with the shares of their noise, and numbers of steps.

    Args:
        samplers: Samplers, with commas between them.
        etas: Values of eta for those that draw noise, with commas between them; 0 is the ODE.
        steps: Numbers of steps, with commas between them.
        schedule: Schedule whose levels above 0 are visited.
    """

    samplers: str | Sequence[str] = "euler,dpmpp_2m,euler_ancestral,dpmpp_2m_sde,dpmpp_sde"
    etas: str | Sequence[float] = "0,0.5,1"
    steps: str | Sequence[int] = "8,16,32,64"
    schedule: str = "exponential"

    def __post_init__(self) -> None:
        object.__setattr__(self, "samplers", names_in("samplers", self.samplers))
        object.__setattr__(self, "etas", numbers_in("etas", self.etas))
        object.__setattr__(self, "steps", counts_in("steps", self.steps, 2))
        settle(self, "lab marginals")


@dataclass(frozen=True)
class Measured:
    """Compares the particles of a run with as many exact samples at each of its levels.

    Args:
        schedule: Schedule whose levels above 0 are visited.
    """

    schedule: str

    def __call__(self, bench: Bench, arm: Arm) -> Mapping[str, Value]:
        opened = bench.open(arm.recipe)
        law = opened.law
        assert law is not None
        sigmas = opened.above_zero(self.schedule, arm.recipe.steps)
        run, start = opened.run(sigmas)
        generator = torch.Generator().manual_seed(seed_word(int(arm.recipe.seed), (3,)) % 2**63)
        found: dict[str, list[float]] = {name: [] for name in ("sigmas", "sliced", "energy", "means", "spreads")}
        state, n = start, arm.recipe.batch
        for k, state in enumerate([start, *iterate(run, start)]):
            sigma = float(run.grid.sigmas[k])
            exact, flat = law.drawn(n, sigma, generator), state.x.flatten(1)
            mean_, covariance = law.moments(sigma)
            scale = float(covariance.trace().sqrt())
            found["sigmas"].append(sigma)
            found["sliced"].append(sliced_wasserstein(state.x, exact) / scale)
            found["energy"].append(energy_distance(state.x, exact) / scale)
            found["means"].append(float((flat.mean(0) - mean_).norm()) / scale)
            found["spreads"].append(float(flat.T.cov().trace() / covariance.trace()) - 1)
        last = float(run.grid.sigmas[-1])
        floor = sliced_wasserstein(law.drawn(n, last, generator), law.drawn(n, last, generator))
        scale = float(law.moments(last)[1].trace().sqrt())
        return {
            "nfe": state.nfe, **found, "end": found["energy"][-1], "end_sliced": found["sliced"][-1],
            "end_spread": found["spreads"][-1], "floor": floor / scale,
        }  # fmt: skip


def marginals(subject: SubjectOptions, options: MarginalsOptions) -> Experiment:
    """The experiment with these options.

    Raises:
        ValueError: The model is not analytic: its marginals are not known.
    """
    if not subject.is_analytic:
        raise ValueError(f"marginals need a model whose marginals are known, such as mixture; got {subject.model}")
    arms: list[Arm] = []
    for name, n in itertools.product(options.samplers, map(int, options.steps)):
        noisy = "eta" in SAMPLERS.lookup(name).parameters
        for eta in map(float, options.etas if noisy else [0.0]):
            spec = Spec(name, {"eta": eta}) if noisy else Spec(name)
            arms.append(Arm({"sampler": name, "eta": eta, "steps": n}, subject.recipe(sampler=spec, steps=n)))
    return Experiment(
        "marginals",
        "Do particles follow the Fokker–Planck marginals: is their distribution at every σ the exact one?",
        {**to_plain(subject), **to_plain(options)},
        arms,
        subject.seed_list,
        Measured(options.schedule),
        COLUMNS,
        read,
        [
            "Distances below what this number of particles resolves: see the floor.",
            "Networks, whose marginals are not known.",
            "Whether single particles are where the ODE leads: only their distribution is compared.",
        ],
    )


def read(table: DataFrame) -> Reading:
    """Which arms are within sampling error of the exact marginal at the end, and ODE against SDE."""
    findings: list[str] = []
    labelled = with_arms(table, ["sampler", "eta"])
    steps = sorted(distinct(table, "steps"))
    for n in (steps[0], steps[-1]):
        for arm in distinct(labelled, "arm"):
            rows = rows_of(labelled, arm=arm, steps=n)
            if len(rows):
                end = mean(rows, "end")
                verdict = "is above 0" if end.low > 0 else "is not above 0"
                findings.append(f"{arm}, {n} steps: the energy distance at the last level is {end}, which {verdict}.")
    for name in distinct(table, "sampler"):
        rows = rows_of(table, sampler=name, steps=steps[-1])
        etas = sorted(distinct(rows, "eta"))
        if len(etas) > 1:
            apart = difference(values(rows, "end", eta=etas[-1]), values(rows, "end", eta=etas[0]))
            sure = "" if apart.excludes(0) else ": their marginals cannot be told apart"
            findings.append(
                f"{name}, {steps[-1]} steps: η = {etas[-1]:g} against η = {etas[0]:g} changes the energy distance by "
                f"{apart}{sure}."
            )
    floor = interval(table["floor"].to_numpy())
    out, (left, right) = figure(2, size=(5.6, 4.2))
    lines(left, labelled, "steps", "end_sliced", "arm", COLUMNS)
    left.axhline(floor.value, color="0.4", linestyle=":", label="two exact samples")
    logarithmic(left, steps, y=False)
    left.legend(fontsize=7)
    for k, arm in enumerate(distinct(labelled, "arm")):
        rows = rows_of(labelled, arm=arm, steps=steps[0])
        if len(rows):
            right.plot(
                rows["sigmas"][0].to_list(), np.mean(rows["sliced"].to_list(), axis=0), color=f"C{k % 10}", marker=".",
                linestyle="-" if k < 10 else "--", linewidth=1,
            )  # fmt: skip
    right.set(xscale="log", xlabel="σ", ylabel=label_of("sliced", COLUMNS), title=f"along the run, {steps[0]} steps")
    right.invert_xaxis()
    right.grid(alpha=0.3)
    caption = "Distance to the exact marginal at the last level against steps, and along the run with the fewest steps."
    table_ = summary(table, ["sampler", "eta", "steps"], ["end", "end_sliced", "end_spread"], COLUMNS)
    findings.append(f"Two exact samples of this size are {floor} apart in the sliced distance.")
    return Reading(findings, {"marginals": Shown(caption, out)}, {"At the last level": table_})


MARGINALS = Study(
    "marginals", MarginalsOptions, marginals,
    quick={"samplers": "dpmpp_2m,euler_ancestral,dpmpp_2m_sde", "etas": "0,1", "steps": "8,32"},
    subject={"particles": 1000}, quick_subject={"seeds": 4, "particles": 400},
)  # fmt: skip
"""`sigmafield lab marginals`."""
