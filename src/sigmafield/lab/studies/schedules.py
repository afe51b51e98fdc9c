"""What does the spacing of σ do? Whole runs on different schedules, and what each interval adds to the error."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch

from sigmafield.core.annotations import Range
from sigmafield.core.parameters import settle
from sigmafield.core.plain import to_plain
from sigmafield.core.protocols import State
from sigmafield.lab.bench import Bench, Opened
from sigmafield.lab.columns import NFE, Column, label_of
from sigmafield.lab.convergence import without_noise
from sigmafield.lab.drawing import distinct, least, lines, logarithmic, octaves, rows_of, summary
from sigmafield.lab.experiment import Arm, Experiment, Reading, Shown, Value
from sigmafield.lab.plot import figure
from sigmafield.lab.reference import carried, cleaned, end_of, rms
from sigmafield.lab.statistics import interval
from sigmafield.lab.studies.study import Study
from sigmafield.lab.subject import SubjectOptions, counts_in, names_in
from sigmafield.runs.run import iterate

if TYPE_CHECKING:
    from polars import DataFrame

CARRY = {True: 60, False: 12}
"""Steps that carry a state to the end of the run, of an analytic model and of a network."""


COLUMNS = {
    "nfe": NFE,
    "error": Column(
        "rms error of the result",
        "root mean square distance of the result to the clean latent that the solution of the ODE from the same start "
        "leads to",
    ),
    "sigmas": Column("σ", "levels of the run"),
    "added": Column("rms added to the error by an interval", "at each interval of the runs with local_steps steps"),
}
"""The measured columns."""


@dataclass(frozen=True, kw_only=True)
class SchedulesOptions:
    """Schedules, numbers of steps and samplers.

    Args:
        schedules: Schedules, with commas between them.
        steps: Numbers of steps, with commas between them.
        samplers: Samplers, with commas between them; those that draw noise run without it.
        local_steps: Number of steps at which it is measured what each interval adds to the error; 0 leaves it out.
    """

    schedules: str | Sequence[str] = "karras,exponential,beta,normal,simple,sgm_uniform,kl_optimal,ddim_uniform"
    steps: str | Sequence[int] = "6,10,20,40"
    samplers: str | Sequence[str] = "euler,dpmpp_2m"
    local_steps: Annotated[int, Range(0, 1000)] = 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedules", names_in("schedules", self.schedules))
        object.__setattr__(self, "samplers", names_in("samplers", self.samplers))
        object.__setattr__(self, "steps", counts_in("steps", self.steps))
        settle(self, "lab schedules")


@dataclass(frozen=True)
class Measured:
    """Runs a sampler over a whole schedule, and measures its distance to the solution of the ODE at σ → 0.

    Args:
        local_steps: Number of steps at which the error is divided among the intervals.
    """

    local_steps: int

    def __call__(self, bench: Bench, arm: Arm) -> Mapping[str, Value]:
        opened = bench.open(arm.recipe)
        sigmas = opened.sigmas()
        run, start = opened.run(sigmas, **without_noise(str(arm.labels["sampler"]).partition("(")[0]))
        states = [start, *iterate(run, start)]
        smallest = torch.tensor(opened.sampling.levels.sigma_min, dtype=torch.float64)
        # schedules that begin at the same level up to rounding share a solution, which costs more than the runs
        first = float(f"{float(sigmas[0]):.6g}")
        exact = cleaned(opened, end_of(bench, opened, first, float(smallest)), smallest)
        found = {"nfe": states[-1].nfe, "error": rms(states[-1].x - exact), "sigmas": sigmas.tolist()}
        if arm.recipe.steps == self.local_steps and len(states) == len(sigmas):
            return {**found, "added": added(opened, states, sigmas)}
        return {**found, "added": []}


def added(opened: Opened, states: Sequence[State], sigmas: torch.Tensor) -> list[float]:
    """What each interval adds to the error of the result.

        z_i = the clean latent that the ODE leads to from x_i,   added_i = rms(z_{i+1} − z_i)

    The differences of all intervals add up to the whole error, as vectors.

    Args:
        opened: The model.
        states: The states of a run, the first one included.
        sigmas: Levels of the states.
    """
    smallest = torch.tensor(opened.sampling.levels.sigma_min, dtype=torch.float64)
    ends = []
    for state, sigma in zip(states, sigmas):
        if sigma <= smallest * (1 + 1e-6):
            ends.append(cleaned(opened, state.x, sigma) if sigma > 0 else state.x)
            continue
        whole, left = (float((begin / smallest).log()) for begin in (sigmas[0], sigma))
        steps = max(1, round(CARRY[opened.law is not None] * left / whole))
        ends.append(cleaned(opened, carried(opened, state.x, sigma, smallest, steps), smallest))
    return [rms(after - before) for before, after in itertools.pairwise(ends)]


def schedules(subject: SubjectOptions, options: SchedulesOptions) -> Experiment:
    """The experiment with these options."""
    arms = [
        Arm(
            {"sampler": sampler, "schedule": name, "steps": n},
            subject.recipe(sampler=sampler, schedule=name, steps=n),
        )
        for sampler in options.samplers
        for name in options.schedules
        for n in map(int, options.steps)
    ]
    return Experiment(
        "schedules",
        "What does the spacing of σ do, and in which intervals does the error of a run arise?",
        {**to_plain(subject), **to_plain(options)},
        arms,
        subject.seed_list,
        Measured(options.local_steps),
        COLUMNS,
        read,
        [
            "Whether a smaller error looks better: a schedule can be worse at solving the ODE and draw nicer images.",
            "Schedules with noise: the runs are those of the ODE.",
            "Schedules that start below the model's largest level are compared with the solution from their own start.",
        ],
    )


def read(table: DataFrame) -> Reading:
    """Best schedules at each number of steps, pairs of sampler and schedule, and where errors arise."""
    findings: list[str] = []
    for sampler in distinct(table, "sampler"):
        for n in distinct(table, "steps"):
            rows = rows_of(table, sampler=sampler, steps=n)
            findings += least(rows, "error", "schedule", f"{sampler} with {n} steps:")
    names = distinct(table, "sampler")
    figures = {"error": _errors(table)}
    local = [(s, n) for s in names for n in distinct(rows_of(table, sampler=s), "schedule") if _added(table, s, n)]
    if local:
        out, axes = figure(len(names), size=(5.6, 4.4))
        for one, sampler in zip(axes, names):
            for _, name in [pair for pair in local if pair[0] == sampler]:
                sigmas, parts = _added(table, sampler, name) or ([], [])
                shown = [(sigma, part) for sigma, part in zip(sigmas, parts) if part > 0]  # 0: the step to σ = 0
                one.loglog(*zip(*shown), marker=".", linewidth=1, label=name)
            one.invert_xaxis()
            one.set(title=sampler, xlabel="σ at the interval's start", ylabel=label_of("added", COLUMNS))
            one.grid(alpha=0.3)
        axes[0].legend(fontsize=8)
        figures["added"] = Shown(
            "What each interval adds to the error of the result, means over seeds: peaks are where steps are missing, "
            "and stretches far below the rest are where steps are wasted.",
            out,
        )
        findings += [_half(table, sampler, name) for sampler, name in local]
    return Reading(findings, figures, {"Errors": summary(table, ["sampler", "schedule", "steps"], ["error"], COLUMNS)})


def _errors(table: DataFrame) -> Shown:
    """Schedules against steps, with axes for each sampler; samplers against their cost if there is one schedule."""
    if len(distinct(table, "schedule")) == 1:
        out, (axes,) = figure(size=(6.6, 4.4))
        lines(axes, table, "nfe", "error", "sampler", COLUMNS)
        logarithmic(axes, octaves(distinct(table, "nfe")))
        axes.legend(fontsize=8)
        return Shown("Error of the result against network calls, means over seeds with intervals.", out)
    names = distinct(table, "sampler")
    out, all_axes = figure(len(names), size=(5.6, 4.4))
    for axes, sampler in zip(all_axes, names):
        lines(axes, rows_of(table, sampler=sampler), "steps", "error", "schedule", COLUMNS)
        logarithmic(axes, sorted(distinct(table, "steps")))
        axes.set_title(sampler)
    all_axes[0].legend(fontsize=8)
    return Shown("Error of the result against steps, means over seeds with intervals.", out)


def _rows_with_parts(table: DataFrame, sampler: str, schedule: str) -> list[tuple[list[float], list[float]]]:
    rows = rows_of(table, sampler=sampler, schedule=schedule)
    return [(s, a) for s, a in zip(rows["sigmas"].to_list(), rows["added"].to_list()) if a]


def _added(table: DataFrame, sampler: str, schedule: str) -> tuple[list[float], list[float]] | None:
    """(σ of each interval's start, mean over seeds of what it adds); None where that was not measured."""
    rows = _rows_with_parts(table, sampler, schedule)
    return (rows[0][0][:-1], np.mean([a for _, a in rows], axis=0).tolist()) if rows else None


def _half(table: DataFrame, sampler: str, schedule: str) -> str:
    """The share of an arm's error, by what the intervals add, that arises above σ = 1."""
    shares = [
        sum(a for s, a in zip(sigmas, parts) if s > 1) / max(sum(parts), 1e-300)
        for sigmas, parts in _rows_with_parts(table, sampler, schedule)
    ]
    return f"{sampler} on {schedule}: a share of {interval(shares)} of what the intervals add arises above σ = 1."


SCHEDULES_STUDY = Study(
    "schedules", SchedulesOptions, schedules,
    quick={"schedules": "karras,beta,normal,sgm_uniform", "steps": "6,10,20", "local_steps": 10},
    quick_network={"schedules": "karras,beta", "steps": "6,10", "local_steps": 0},
    quick_subject={"seeds": 4, "particles": 64},
)  # fmt: skip
"""`sigmafield lab schedules`."""
