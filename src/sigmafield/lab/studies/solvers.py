"""What is the integrator's own error? Samplers without noise against the solution of the same ODE."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sigmafield.core.parameters import settle
from sigmafield.core.plain import to_plain
from sigmafield.core.registry import Spec
from sigmafield.lab.bench import Bench
from sigmafield.lab.columns import NFE, Column
from sigmafield.lab.convergence import without_noise
from sigmafield.lab.drawing import distinct, least, lines, logarithmic, mean, octaves, rows_of, summary, values
from sigmafield.lab.experiment import Arm, Experiment, Reading, Shown, Value
from sigmafield.lab.plot import figure
from sigmafield.lab.reference import end_of, rms
from sigmafield.lab.statistics import Interval, interval
from sigmafield.lab.studies.study import Study
from sigmafield.lab.subject import SubjectOptions, counts_in, names_in
from sigmafield.runs.run import finish
from sigmafield.samplers import SAMPLERS

if TYPE_CHECKING:
    from polars import DataFrame

FLOOR = {True: 1e-11, False: 3e-5}
"""Errors below which rounding decides, of an analytic model and of a network: they tell nothing about the order."""


COLUMNS = {
    "nfe": NFE,
    "error": Column(
        "rms error at the last level",
        "root mean square distance of x at the last level above 0 to the solution of the ODE from the same start, by "
        "closed form or by a fourth-order method with many steps",
    ),
}
"""The measured columns."""


@dataclass(frozen=True, kw_only=True)
class SolversOptions:
    """Samplers and numbers of steps.

    Args:
        samplers: Samplers, with commas between them; those that draw noise run without it.
        steps: Numbers of steps, with commas between them.
        schedule: Schedule whose levels above 0 are visited; exponential is uniform in λ.
    """

    samplers: str | Sequence[str] = "euler,heun,dpm_2,dpmpp_2m,dpmpp_sde,res_multistep,ipndm,deis,lms,uni_pc,seeds_3"
    steps: str | Sequence[int] = "8,16,32,64,128"
    schedule: str = "exponential"

    def __post_init__(self) -> None:
        object.__setattr__(self, "samplers", names_in("samplers", self.samplers))
        object.__setattr__(self, "steps", counts_in("steps", self.steps, 2))
        settle(self, "lab solvers")


@dataclass(frozen=True)
class Measured:
    """Runs a sampler over the levels of a schedule above 0, and measures its distance to the ODE's solution.

    Args:
        schedule: The schedule.
    """

    schedule: str

    def __call__(self, bench: Bench, arm: Arm) -> Mapping[str, Value]:
        opened = bench.open(arm.recipe)
        sigmas = opened.above_zero(self.schedule, arm.recipe.steps)
        run, start = opened.run(sigmas, **without_noise(str(arm.labels["sampler"]).partition("(")[0]))
        last = finish(run, start)
        exact = end_of(bench, opened, float(sigmas[0]), float(sigmas[-1]))
        return {"nfe": last.nfe, "error": rms(last.x - exact)}


def solvers(subject: SubjectOptions, options: SolversOptions) -> Experiment:
    """The experiment with these options."""
    arms = [
        Arm({"sampler": name, "steps": n}, subject.recipe(sampler=name, steps=n, schedule=options.schedule))
        for name in options.samplers
        for n in map(int, options.steps)
    ]
    return Experiment(
        "solvers",
        "What is the integrator's own error, and how fast does it fall with more calls of the model?",
        {**to_plain(subject), **to_plain(options)},
        arms,
        subject.seed_list,
        Measured(options.schedule),
        COLUMNS,
        Read(subject.is_analytic),
        [
            "Whether a smaller error looks better: images of an ODE that is solved well and badly can please equally.",
            "Samplers with noise as they are used: here their noise is off, since each noise has its own solution.",
            "The last step from the smallest level to 0, which is the same prediction for every sampler.",
        ],
    )


@dataclass(frozen=True)
class Read:
    """Observed orders, errors at equal cost, and the front of the best.

    Args:
        exact: Whether the model is analytic, so that errors are exact to double precision.
    """

    exact: bool

    def __call__(self, table: DataFrame) -> Reading:
        import polars

        names, findings, orders = distinct(table, "sampler"), list[str](), list[dict[str, str]]()
        for name in names:
            found = observed_order(rows_of(table, sampler=name), FLOOR[self.exact])
            declared = SAMPLERS[Spec.parse(name).name].order
            orders.append({"sampler": name, "observed order": str(found or "—"), "declared": str(declared)})
        budgets = sorted({int(n) for n in table["nfe"].unique().to_list()})
        for budget in [b for b in budgets if b in (8, 16, 20, 32, 64)]:
            findings += at_budget(table, budget)
        measured = [f"{row['sampler']} {row['observed order']}" for row in orders if row["observed order"] != "—"]
        if measured:
            findings.append(f"Observed orders between the two longest runs: {'; '.join(measured)}.")
        out, (axes,) = figure(size=(7.0, 4.6))
        lines(axes, table, "nfe", "error", "sampler", COLUMNS)
        front = front_of(table)
        axes.plot(
            [n for n, _, _ in front], [e for _, e, _ in front], color="0.6", linewidth=6, alpha=0.35, zorder=0,
            label="best at each cost",
        )  # fmt: skip
        logarithmic(axes, octaves(distinct(table, "nfe")))
        axes.legend(fontsize=8, ncols=2)
        caption = "Error against evaluations, means over seeds with intervals. Grey: the front of the best."
        return Reading(
            findings, {"error": Shown(caption, out)},
            {
                "Observed orders": polars.DataFrame(orders),
                "Errors": summary(table, ["sampler", "steps"], ["error"], COLUMNS),
            },
        )  # fmt: skip


def observed_order(rows: DataFrame, floor: float) -> Interval | None:
    """−Δ ln error/Δ ln steps between the two longest runs above the floor of rounding, over seeds; None if not two."""
    counts = sorted(n for n in distinct(rows, "steps") if mean(rows, "error", steps=n).value > floor)
    if len(counts) < 2:
        return None
    fewer, more = counts[-2:]
    logs = values(rows, "error", steps=fewer) / values(rows, "error", steps=more)
    return interval([math.log(value) / math.log(more / fewer) for value in logs])


def at_budget(table: DataFrame, budget: int) -> list[str]:
    """Who has the least error with this many evaluations, and by which factor the second has more."""
    rows = rows_of(table, nfe=budget)
    if rows.select("sampler", "steps").unique().height != len(distinct(rows, "sampler")):
        return []
    return least(rows, "error", "sampler", f"With {budget} evaluations")


def front_of(table: DataFrame) -> list[tuple[float, float, str]]:
    """(evaluations, mean error, sampler) of the arms that no other beats in both."""
    arms = table.select("sampler", "steps", "nfe", "error").group_by("sampler", "steps", maintain_order=True).mean()
    points = sorted(zip(arms["nfe"].to_list(), arms["error"].to_list(), arms["sampler"].to_list()))
    front: list[tuple[float, float, str]] = []
    for point in points:
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


SOLVERS = Study(
    "solvers", SolversOptions, solvers,
    quick={"samplers": "euler,heun,dpmpp_2m,dpmpp_sde,seeds_3", "steps": "8,16,32,64"},
    quick_network={"samplers": "euler,dpmpp_2m", "steps": "8,16,32"}, quick_subject={"seeds": 4},
)  # fmt: skip
"""`sigmafield lab solvers`."""
