"""What the server's batcher gives and costs: unlike runs at once, and one run alone.

Two networks: one whose call takes the same time for 1 to 8 rows, as a large accelerator's does, and the embedded model.
Times are the shortest of several rounds in turn, so that other programs disturb less; images are not decoded.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import cyclopts
import torch
from rich.console import Console
from rich.table import Table

import sigmafield as sf
from sigmafield.recipes.build import Job
from sigmafield.runs.run import finish
from sigmafield.serve.batcher import Batcher, BatchFigures, BatchSettings

CALL = 0.02
"""Seconds of a call of the network that takes the same time for any number of rows."""

UNLIKE = [
    sf.Recipe("a red heart", steps=20, cfg=3.0, sampler="euler", seed=1),
    sf.Recipe("a blue star", steps=30, cfg=5.0, sampler="dpmpp_2m_sde", seed=2),
    sf.Recipe("a green circle", steps=15, cfg=4.0, sampler="heun", seed=3),
    sf.Recipe("a yellow square", steps=25, cfg=7.0, sampler="uni_pc", schedule="normal", seed=4),
]
AS_LONG = [replace(recipe, steps=steps) for recipe, steps in zip(UNLIKE, (30, 30, 15, 29))]
"""The same with 29 or 30 evaluations each, to be compared with a batch in which no run ends early."""

UNIFORM = sf.Recipe("a red heart", steps=30, cfg=3.0, sampler="euler", seed=1, batch=4)
ALONE = sf.Recipe("a red heart", steps=30, cfg=3.0, sampler="euler", seed=1)


def constant() -> sf.Pipeline:
    """The embedded model with a network that only takes time."""

    def forward(module, x, t, cond):
        time.sleep(CALL)
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
    rows = sum(2 * len(job.start.x) * nfe for job, nfe in ((job, finish(job.run, job.start).nfe) for job in jobs))
    calls = sum(finish(job.run, job.start).nfe for job in jobs)

    def run() -> BatchFigures:
        for job in jobs:
            finish(job.run, job.start)
        return BatchFigures(calls, rows)

    return run


def measure(cases: dict[str, Callable[[], BatchFigures]], rounds: int) -> dict[str, tuple[float, BatchFigures]]:
    """Shortest seconds of each case, with the figures of the last round; a first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    figures: dict[str, BatchFigures] = {}
    for k in range(rounds + 1):
        for name, run in cases.items():
            began = time.perf_counter()
            figures[name] = run()
            if k:
                times[name].append(time.perf_counter() - began)
    return {name: (min(each), figures[name]) for name, each in times.items()}


def main(rounds: Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=1))] = 5) -> None:
    """Print the table for both networks, and which goals are met.

    Args:
        rounds: Rounds that are timed.
    """
    torch.set_num_threads(1)
    for title, pipe in {"a call takes 20 ms": constant(), "the embedded model": sf.load("tiny", device="cpu")}.items():
        cases = {
            "four unlike runs, one after another": plain(pipe, UNLIKE),
            "four unlike runs at once": batched(pipe, UNLIKE),
            "the same in exact mode, 8 rows": batched(pipe, UNLIKE, exact=True),
            "a uniform batch of four": plain(pipe, [UNIFORM]),
            "four unlike runs of its length at once": batched(pipe, AS_LONG),
            "one run": plain(pipe, [ALONE]),
            "one run through the batcher": batched(pipe, [ALONE]),
        }
        found = measure(cases, rounds)
        table = Table("runs", "network calls", "rows", "seconds", "rows per second", title=f"{title}, {rounds} rounds")
        for name, (seconds, figures) in found.items():
            speed = figures.rows / seconds
            table.add_row(name, str(figures.calls), str(figures.rows), f"{seconds:.2f}", f"{speed:.0f}")
        Console(width=120).print(table)
        verdicts(found)


def verdicts(found: dict[str, tuple[float, BatchFigures]]) -> None:
    """Print the goals and whether they are met."""
    (_, apart), (_, together), _, uniform, as_long, one, through = found.values()
    share = (as_long[1].rows / as_long[0]) / (uniform[1].rows / uniform[0])
    ratio = through[0] / one[0]
    longest = 30
    for what, met in (
        (
            f"{together.calls} calls instead of {apart.calls}; the longest run's are {longest}",
            together.calls == longest,
        ),
        (f"throughput of unlike runs: {share:.1%} of a uniform batch's; goal 95 %", share >= 0.95),
        (f"one run through the batcher: {ratio:.3f} of its time without; goal 1.02", ratio <= 1.02),
    ):
        print(f"{what}: {'met' if met else 'missed'}")


if __name__ == "__main__":
    cyclopts.run(main)
