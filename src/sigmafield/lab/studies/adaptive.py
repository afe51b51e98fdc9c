"""Does adaptivity pay? An adaptive solver at many tolerances beside fixed-step samplers at equal cost."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sigmafield.core.parameters import settle
from sigmafield.core.plain import to_plain
from sigmafield.core.registry import Spec, shown
from sigmafield.lab.bench import Bench
from sigmafield.lab.columns import NFE, Column
from sigmafield.lab.convergence import without_noise
from sigmafield.lab.drawing import distinct, logarithmic, mean, octaves, rows_of, summary, values, words_of
from sigmafield.lab.experiment import Arm, Experiment, Reading, Shown, Value
from sigmafield.lab.plot import figure
from sigmafield.lab.reference import end_of, rms
from sigmafield.lab.statistics import Interval, interval
from sigmafield.lab.studies.study import Study
from sigmafield.lab.subject import SubjectOptions, counts_in, names_in, numbers_in
from sigmafield.runs.run import iterate

if TYPE_CHECKING:
    from polars import DataFrame

ADAPTIVE = "dpm_adaptive"
"""The sampler that chooses its own steps."""


COLUMNS = {
    "nfe": Column(NFE.label, "evaluations of the model that were made, rejected attempts included"),
    "rejected": Column("rejected attempts"),
    "error": Column(
        "rms error at the last level", "root mean square distance at the last level above 0 to the solution of the ODE"
    ),
}
"""The measured columns."""


@dataclass(frozen=True, kw_only=True)
class AdaptiveOptions:
    """Tolerances and controllers of the adaptive solver, and the fixed-step samplers beside it.

    Args:
        rtols: Relative tolerances, with commas between them.
        atols: Absolute tolerances, with commas between them.
        orders: Orders of the adaptive solver: 2, 3 or both.
        pids: Gains P/I/D of the step-size controller, with commas between them.
        samplers: Fixed-step samplers, with commas between them; those that draw noise run without it.
        steps: Numbers of their steps, with commas between them.
        schedule: Schedule whose levels above 0 they visit.
    """

    rtols: str | Sequence[float] = "0.003,0.01,0.03,0.05,0.1,0.3"
    atols: str | Sequence[float] = "0.0005,0.0078"
    orders: str | Sequence[int] = "2,3"
    pids: str | Sequence[str] = "0/1/0,0.3/0.4/0"
    samplers: str | Sequence[str] = "dpmpp_2m,heun,seeds_3,uni_pc"
    steps: str | Sequence[int] = "8,12,16,24,32,48,64"
    schedule: str = "exponential"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rtols", numbers_in("rtols", self.rtols))
        object.__setattr__(self, "atols", numbers_in("atols", self.atols))
        object.__setattr__(self, "orders", counts_in("orders", self.orders, 2))
        object.__setattr__(self, "pids", names_in("pids", self.pids))
        object.__setattr__(self, "samplers", names_in("samplers", self.samplers))
        object.__setattr__(self, "steps", counts_in("steps", self.steps, 2))
        settle(self, "lab adaptive")
        for text in self.pids:
            gains_of(text)


def gains_of(text: str) -> dict[str, float]:
    """Gains of the controller from "P/I/D"; ValueError for another text."""
    try:
        p, i, d = map(float, text.split("/"))
    except ValueError:
        raise ValueError(f"pids must be P/I/D, such as 0/1/0; got {shown(text)}") from None
    return {"pcoeff": p, "icoeff": i, "dcoeff": d}


@dataclass(frozen=True)
class Measured:
    """Runs an arm between the largest and the least level of the model, and measures its distance to the solution.

    Args:
        schedule: Schedule of fixed-step samplers.
    """

    schedule: str

    def __call__(self, bench: Bench, arm: Arm) -> Mapping[str, Value]:
        opened, name = bench.open(arm.recipe), str(arm.labels["sampler"])
        levels = opened.above_zero(self.schedule, arm.recipe.steps)
        ends = torch.stack([levels[0], levels[-1]])
        adaptive = name == ADAPTIVE
        run, start = opened.run(ends if adaptive else levels, **without_noise(name.partition("(")[0]))
        states = [start, *iterate(run, start)]
        rejected = 0
        if adaptive:
            reached = [state.mem.get("lam", 0.0) for state in states[1:]]
            rejected = sum(a == b for a, b in itertools.pairwise([-float(ends[0].log()), *reached]))
        exact = end_of(bench, opened, float(ends[0]), float(ends[1]))
        return {"nfe": states[-1].nfe, "rejected": rejected, "error": rms(states[-1].x - exact)}


def adaptive(subject: SubjectOptions, options: AdaptiveOptions) -> Experiment:
    """The experiment with these options."""
    arms: list[Arm] = []
    for order, pid, atol, rtol in itertools.product(options.orders, options.pids, options.atols, options.rtols):
        spec = Spec(ADAPTIVE, {"rtol": rtol, "atol": atol, "order": order, **gains_of(pid)})
        labels = {"sampler": ADAPTIVE, "order": int(order), "pid": pid, "atol": float(atol), "rtol": float(rtol)}
        arms.append(Arm({**labels, "steps": 0}, subject.recipe(sampler=spec, schedule=options.schedule)))
    for name, n in itertools.product(options.samplers, map(int, options.steps)):
        labels = {"sampler": name, "order": 0, "pid": "", "atol": 0.0, "rtol": 0.0, "steps": n}
        arms.append(Arm(labels, subject.recipe(sampler=name, steps=n, schedule=options.schedule)))
    return Experiment(
        "adaptive",
        "Does adaptivity pay: is the error at equal cost smaller than that of fixed steps?",
        {**to_plain(subject), **to_plain(options)},
        arms,
        subject.seed_list,
        Measured(options.schedule),
        COLUMNS,
        read,
        [
            "Costs other than evaluations: the solver waits for its error estimate at every attempt.",
            "Batches: the step size is one for all samples of a run, so that it depends on who is in the batch.",
            "Schedules other than the one of the fixed steps: `lab schedules` compares those.",
        ],
    )


def read(table: DataFrame) -> Reading:
    """The adaptive arms against each fixed-step sampler at the same number of evaluations."""
    findings: list[str] = []
    own = rows_of(table, sampler=ADAPTIVE)
    settings = own.select("order", "pid", "atol", "rtol").unique(maintain_order=True).to_dicts()
    fixed = [name for name in distinct(table, "sampler") if name != ADAPTIVE]
    for name in fixed:
        ratios = [(arm, against(own, arm, rows_of(table, sampler=name))) for arm in settings]
        known = [(arm, each) for arm, each in ratios if each is not None]
        if not known:
            continue
        better = sum(each.high < 1 for _, each in known)
        worse = sum(each.low > 1 for _, each in known)
        arm, best = min(known, key=lambda pair: pair[1].value)
        findings.append(
            f"Against {name} at equal cost, by interpolation: of {len(known)} adaptive settings {better} have a "
            f"smaller error and {worse} a larger one, by intervals; the best, {words_of(arm)}, has {best} times the "
            "error."
        )
    rejected = [(arm, mean(own, "rejected", **arm), mean(own, "nfe", **arm)) for arm in settings]
    arm, most, calls = max(rejected, key=lambda row: row[1].value)
    findings.append(f"Most attempts are rejected with {words_of(arm)}: {most} of a run with {calls} evaluations.")
    out, (axes,) = figure(size=(6.6, 4.6))
    for k, (order, pid) in enumerate(own.select("order", "pid").unique(maintain_order=True).rows()):
        rows = rows_of(own, order=order, pid=pid)
        points = rows.select("atol", "rtol", "nfe", "error").group_by("atol", "rtol", maintain_order=True).mean()
        axes.scatter(  # black, since the colours are those of the lines
            points["nfe"], points["error"], marker="os^D"[k % 4], s=22, color="black",
            label=f"adaptive, order {order}, P/I/D {pid}",
        )  # fmt: skip
    for name in fixed:
        rows = rows_of(table, sampler=name).select("steps", "nfe", "error")
        points = rows.group_by("steps", maintain_order=True).mean().sort("nfe")
        axes.plot(points["nfe"], points["error"], linewidth=1, marker=".", label=name)
    axes.set(xlabel=COLUMNS["nfe"].label, ylabel=COLUMNS["error"].label)
    logarithmic(axes, octaves(distinct(table, "nfe")))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    caption = "Error against evaluations, means over seeds: marks are adaptive settings, lines are fixed steps."
    by = ["sampler", "order", "pid", "atol", "rtol", "steps"]
    return Reading(findings, {"error": Shown(caption, out)}, {"All arms": summary(table, by, list(COLUMNS), COLUMNS)})


def against(own: DataFrame, arm: Mapping[str, object], fixed: DataFrame) -> Interval | None:
    """Ratio of an adaptive arm's error to that of a fixed-step sampler with as many evaluations, seed by seed.

    The fixed sampler's error is interpolated in logarithms; None where its runs are all cheaper or all dearer.
    """
    calls, errors = values(own, "nfe", **arm), values(own, "error", **arm)
    logs: list[float] = []
    for seed, nfe, error in zip(sorted(distinct(own, "seed")), calls, errors):
        rows = rows_of(fixed, seed=seed).sort("nfe")
        costs = rows["nfe"].to_numpy()
        if not costs[0] <= nfe <= costs[-1]:
            return None
        there = np.interp(np.log(nfe), np.log(costs), np.log(rows["error"].to_numpy()))
        logs.append(float(np.log(error) - there))
    found = interval(logs)
    return Interval(float(np.exp(found.value)), float(np.exp(found.low)), float(np.exp(found.high)), found.n)


ADAPTIVE_STUDY = Study(
    "adaptive", AdaptiveOptions, adaptive,
    quick={
        "rtols": "0.01,0.05,0.2", "atols": "0.0078", "pids": "0/1/0", "samplers": "dpmpp_2m,heun,seeds_3",
        "steps": "8,16,32,64",
    },
    quick_network={"rtols": "0.02,0.2", "orders": "3", "samplers": "dpmpp_2m", "steps": "8,16,32"},
    quick_subject={"seeds": 4, "particles": 128},
)  # fmt: skip
"""`sigmafield lab adaptive`."""
