"""A mixed load on the batcher: jobs arrive at random, whether or not earlier ones are done (an open loop).

The same jobs at the same times are run with joined calls, with every run's calls made apart, and one job after another.
Latency is the time from a job's arrival to its last step. Images are not decoded.
"""

import heapq
import random
import statistics
import threading
import time
from dataclasses import replace
from typing import Annotated, Literal

import cyclopts
import torch
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table

import sigmafield as sf
from sigmafield.runs.run import finish
from sigmafield.serve.batcher import Batcher, BatchSettings

SAMPLERS = ("euler", "dpmpp_2m", "dpmpp_2m_sde", "heun", "uni_pc")


def jobs_of(rate: float, seconds: float, seed: int) -> list[tuple[float, sf.Recipe]]:
    """(arrival, recipe) of jobs that arrive at random with a mean rate per second, for some seconds."""
    draw, now, jobs = random.Random(seed), 0.0, []
    while (now := now + draw.expovariate(rate)) < seconds:
        side = 96 if draw.random() < 0.2 else None
        recipe = sf.Recipe(
            draw.choice(("a red heart", "a blue star", "a green circle")), sampler=draw.choice(SAMPLERS),
            steps=draw.randrange(8, 24), cfg=draw.uniform(2, 8), seed=len(jobs), width=side, height=side,
        )  # fmt: skip
        jobs.append((now, recipe))
    return jobs


def network(kind: str, call: float) -> sf.Pipeline:
    """The embedded model, or with a network whose call takes the same time for any number of rows."""
    pipe = sf.load("tiny", device="cpu")
    if kind == "embedded":
        return pipe

    def forward(module, x, t, cond):
        time.sleep(call)
        return 0.1 * x

    return replace(pipe, model=replace(pipe.model, forward=forward, module=None))


def drive(
    pipe: sf.Pipeline, jobs: list[tuple[float, sf.Recipe]], active: int, settings: BatchSettings, by_measurement: bool
) -> tuple[float, list[float], Batcher]:
    """Runs jobs as they arrive, at most `active` at a time; (seconds until all are done, latencies, the batcher)."""
    batcher = Batcher(settings)
    pipe = replace(pipe, model=batcher.joined(pipe.model))
    waiting, changed, latencies = [(at, i) for i, (at, _) in enumerate(jobs)], threading.Condition(), []
    heapq.heapify(waiting)
    running, began = 0, time.perf_counter()

    def worker() -> None:
        nonlocal running
        while True:
            with changed:
                while True:
                    if not waiting:
                        return
                    wait = waiting[0][0] - (time.perf_counter() - began)
                    room = not by_measurement or batcher.pays(running)
                    if wait <= 0 and room:
                        break
                    changed.wait(max(wait, 0.001) if room else 0.01)
                at, i = heapq.heappop(waiting)
                running += 1
            job = sf.open_job(jobs[i][1], pipe)
            with batcher.running():
                finish(job.run, job.start)
            with changed:
                running -= 1
                latencies.append(time.perf_counter() - began - at)
                changed.notify_all()

    threads = [threading.Thread(target=worker) for _ in range(active)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batcher.close()
    return time.perf_counter() - began, latencies, batcher


def main(
    kind: Literal["constant", "embedded"] = "constant",
    *,
    rate: Annotated[float, Parameter(validator=Number(gt=0))] = 6.0,
    seconds: Annotated[float, Parameter(validator=Number(gt=0))] = 20.0,
    active: Annotated[int, Parameter(validator=Number(gte=1))] = 8,
    call: float = 0.02,
    seed: int = 0,
) -> None:
    """Print throughput, latencies and how well calls were filled.

    Args:
        kind: The network: one whose call takes the same time for any number of rows, or the embedded model.
        rate: Jobs that arrive per second.
        seconds: For how long jobs arrive.
        active: Most runs at a time.
        call: Seconds of a call of the constant network.
        seed: Of the jobs and their arrivals.
    """
    torch.set_num_threads(1)
    pipe, jobs = network(kind, call), jobs_of(rate, seconds, seed)
    cases = {
        "joined, runs by measurement": (active, BatchSettings(), True),
        f"joined, up to {active} runs": (active, BatchSettings(), False),
        f"joined, exact, up to {active} runs": (active, BatchSettings(exact=True), False),
        f"calls apart, up to {active} runs": (active, BatchSettings(max_rows=2, window=0.0), False),
        "one run at a time": (1, BatchSettings(), False),
    }
    table = Table("engine", "jobs per second", "p50", "p99", "rows per call", "waits",
                  title=f"{len(jobs)} jobs, {rate:g} per second, {kind} network")  # fmt: skip
    for name, how in cases.items():
        took, latencies, batcher = drive(pipe, jobs, *how)
        ends, figures = statistics.quantiles(latencies, n=100), batcher.figures()
        speed, filled = len(jobs) / took, figures.rows / figures.calls
        table.add_row(
            name, f"{speed:.2f}", f"{ends[49]:.2f} s", f"{ends[98]:.2f} s", f"{filled:.2f}", str(figures.waits)
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    cyclopts.run(main)
