"""What the server's batcher gives and costs: unlike runs at once, and one run alone.

Two networks: one whose call takes the same time for 1 to 8 rows, as on a large accelerator, and the embedded model.

A uniform batch is what other servers join: one run of four images that are alike, without a batcher, so that samplers
and guidance work once for all four. It is measured for each of the four kinds of run; their mean is compared with four
unlike runs that make as many calls, each of which does this work for itself between two calls.

Times are the shortest of several rounds in turn, so that other programs disturb less; the median says how much they
do. On a machine where they do a lot, the time that calls take at least and the CPU time tell more than the clock:
both comparisons are printed. For the embedded model, which computes on one CPU, goals are judged by CPU time. Images
are not decoded.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Annotated

import cyclopts
import torch
from rich.console import Console
from rich.table import Table

import sigmafield as sf
from sigmafield.recipes.build import Job
from sigmafield.runs.run import finish
from sigmafield.serve.batcher import Batcher, BatchSettings
from sigmafield.serve.figures import BatchFigures

CALL, LONG_CALL = 0.02, 0.2
"""Seconds of a call of the network that takes the same time for any number of rows."""

UNLIKE = [
    sf.Recipe("a red heart", steps=20, cfg=3.0, sampler="euler", seed=1),
    sf.Recipe("a blue star", steps=30, cfg=5.0, sampler="dpmpp_2m_sde", seed=2),
    sf.Recipe("a green circle", steps=15, cfg=4.0, sampler="heun", seed=3),
    sf.Recipe("a yellow square", steps=25, cfg=7.0, sampler="uni_pc", schedule="normal", seed=4),
]
AS_LONG = [replace(recipe, steps=steps) for recipe, steps in zip(UNLIKE, (29, 29, 15, 29))]
"""The same with 29 evaluations each, to be compared with a batch in which no run ends early."""

UNIFORM = [replace(recipe, batch=4) for recipe in AS_LONG]
"""Batches of four images that are alike, of each kind; their mean is compared with the four unlike runs at once."""

ALONE = sf.Recipe("a red heart", steps=30, cfg=3.0, sampler="euler", seed=1)


@dataclass
class Measured:
    """What was measured of one case.

    Args:
        figures: Of the last round.
        walls: Seconds of each round.
        cpus: CPU seconds of each round.
    """

    figures: BatchFigures
    walls: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)


def constant(seconds: float) -> sf.Pipeline:
    """The embedded model with a network that only takes time."""

    def forward(module, x, t, cond):
        time.sleep(seconds)
        return 0.1 * x

    pipe = sf.load("tiny", device="cpu")
    return replace(pipe, model=replace(pipe.model, forward=forward, module=None))


def at_once(jobs: Sequence[Job], batcher: Batcher) -> None:
    """Steps all jobs to their ends at the same time, each in a thread."""
    begin = threading.Barrier(len(jobs))

    def run(job: Job) -> None:
        with batcher.running():
            begin.wait()
            finish(job.run, job.start)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def batched(pipe: sf.Pipeline, recipes: Sequence[sf.Recipe], **settings) -> Callable[[], BatchFigures]:
    """Runs recipes at once, by one batcher for all rounds; gives the figures of a round."""
    batcher = Batcher(BatchSettings(**settings))
    pipe = replace(pipe, model=batcher.joined(pipe.model))
    jobs = [sf.open_job(recipe, pipe) for recipe in recipes]

    def run() -> BatchFigures:
        before = batcher.figures()
        at_once(jobs, batcher)
        after = batcher.figures()
        return replace(after, calls=after.calls - before.calls, rows=after.rows - before.rows)

    return run


def plain(pipe: sf.Pipeline, recipes: Sequence[sf.Recipe]) -> Callable[[], BatchFigures]:
    """Runs recipes one after another, without a batcher."""
    jobs = [sf.open_job(recipe, pipe) for recipe in recipes]

    def run() -> BatchFigures:
        ends = [(job, finish(job.run, job.start).nfe) for job in jobs]
        return BatchFigures(sum(nfe for _, nfe in ends), sum(2 * len(job.start.x) * nfe for job, nfe in ends))

    return run


def measure(cases: dict[str, Callable[[], BatchFigures]], rounds: int) -> dict[str, Measured]:
    """Each case in turn; a first round warms up."""
    found: dict[str, Measured] = {}
    for k in range(rounds + 1):
        for name, run in cases.items():
            wall, cpu = time.perf_counter(), time.process_time()
            figures = run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if k:
                made = found.setdefault(name, Measured(figures))
                made.figures = figures
                made.walls.append(wall)
                made.cpus.append(cpu)
    return found


def main(rounds: Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=1))] = 5) -> None:
    """Print the table for both networks, and which goals are met.

    Args:
        rounds: Rounds that are timed.
    """
    torch.set_num_threads(1)
    tiny = sf.load("tiny", device="cpu")
    for title, pipe, call in (
        (f"a call takes {1e3 * CALL:.0f} ms", constant(CALL), CALL),
        (f"a call takes {1e3 * LONG_CALL:.0f} ms", constant(LONG_CALL), LONG_CALL),
        ("the embedded model", tiny, None),
    ):
        cases = {"uniform batches of four": plain(pipe, UNIFORM), "four unlike runs as long": batched(pipe, AS_LONG)}
        if call != LONG_CALL:
            cases |= {
                "four unlike runs, one after another": plain(pipe, UNLIKE),
                "four unlike runs at once": batched(pipe, UNLIKE),
                "the same in exact mode, 8 rows": batched(pipe, UNLIKE, exact=True),
                "one run": plain(pipe, [ALONE]),
                "one run through the batcher": batched(pipe, [ALONE]),
                "one run in exact mode, 8 rows": batched(pipe, [ALONE], exact=True),
            }
        found = measure(cases, rounds)
        columns = ("runs", "network calls", "rows", "seconds", "median", "CPU seconds", "median")
        table = Table(*columns, title=f"{title}, {rounds} rounds")
        for name, each in found.items():
            times = (f"{value:.2f}" for both in (each.walls, each.cpus) for value in (min(both), median(both)))
            table.add_row(name, str(each.figures.calls), str(each.figures.rows), *times)
        Console(width=120).print(table)
        verdicts(found, call)


def verdicts(found: dict[str, Measured], call: float | None) -> None:
    """Print the goals and whether they are met.

    Args:
        found: What was measured.
        call: Seconds of a call; None where calls compute, and goals are judged by CPU time.
    """

    def speed(name: str) -> float:
        """Rows per second."""
        return found[name].figures.rows / min(found[name].cpus if call is None else found[name].walls)

    def at_most(name: str) -> float:
        """Rows per second if nothing but the calls and the CPU time took time."""
        figures = found[name].figures
        return figures.rows / ((call or 0.0) * figures.calls + min(found[name].cpus))

    both = "four unlike runs as long", "uniform batches of four"
    share = speed(both[0]) / speed(both[1])
    say(f"throughput of unlike runs at once: {share:.1%} of uniform batches'; goal 95 %", share >= 0.95)
    if call is not None:
        print(f"by their calls and CPU time alone: {at_most(both[0]) / at_most(both[1]):.1%}")
    if "one run" in found:
        calls, apart = (found[f"four unlike runs{how}"].figures.calls for how in (" at once", ", one after another"))
        say(f"{calls} calls at once, {apart} one after another; goal 30, the longest run's", calls == 30)
        ratio = speed("one run") / speed("one run through the batcher")
        say(f"one run through the batcher takes {ratio:.3f} of its time without; goal 1.02", ratio <= 1.02)


def say(what: str, met: bool) -> None:
    print(f"{what}: {'met' if met else 'missed'}")


if __name__ == "__main__":
    cyclopts.run(main)
