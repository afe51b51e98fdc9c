"""A mixed load: jobs arrive at random, whether or not earlier ones are done (an open loop).

The same jobs at the same times are run with joined calls, with every run's calls made apart, and one job after another:
by the server's engine with the embedded model, or by threads with a network whose call takes the same time for any
number of rows. Latency is the time from a job's arrival to its end, for the engine with its images.
"""

import heapq
import random
import shutil
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
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
from sigmafield.serve.engine import Engine
from sigmafield.serve.figures import BatchFigures
from sigmafield.serve.jobs import FINISHED
from sigmafield.serve.settings import EngineSettings

MOST = 16
"""Threads where runs are admitted by measurement."""

SAMPLERS = ("euler", "dpmpp_2m", "dpmpp_2m_sde", "heun", "uni_pc")

Jobs = list[tuple[float, sf.Recipe]]
"""Arrivals in seconds, with what arrives."""

Outcome = tuple[float, list[float], BatchFigures]
"""Seconds until all jobs are done, their latencies, and what the batcher did."""


def jobs_of(rate: float, seconds: float, seed: int) -> Jobs:
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


def constant(call: float) -> sf.Pipeline:
    """The embedded model with a network whose call takes the same time for any number of rows."""

    def forward(module, x, t, cond):
        time.sleep(call)
        return 0.1 * x

    pipe = sf.load("tiny", device="cpu")
    return replace(pipe, model=replace(pipe.model, forward=forward, module=None))


def by_engine(jobs: Jobs, active: int | None, settings: BatchSettings) -> Outcome:
    """Runs jobs as they arrive, by the server's engine on the CPU."""
    folder = Path(tempfile.mkdtemp(prefix="sigmafield-load-"))
    batching = {name: getattr(settings, name) for name in ("exact", "rows", "max_rows", "window")}
    engine = Engine(folder, EngineSettings(devices=["cpu"], active=active, preview_every=float("inf"), **batching))
    engine.start()
    began, ids = time.perf_counter(), []
    for at, recipe in jobs:
        time.sleep(max(0.0, at - (time.perf_counter() - began)))
        ids.append(engine.submit("recipe", recipe.to_plain()).id)
    while any(engine.get(id).status not in FINISHED for id in ids):
        time.sleep(0.02)
    took, records = time.perf_counter() - began, [engine.get(id) for id in ids]
    figures = engine.figures().devices[0].batch
    engine.stop()
    shutil.rmtree(folder)
    assert all(record.status == "done" for record in records)
    return took, [(record.ended or 0.0) - record.created for record in records], figures


def by_threads(jobs: Jobs, active: int | None, settings: BatchSettings, pipe: sf.Pipeline) -> Outcome:
    """Runs jobs as they arrive, each in a thread, at most `active` at a time; None: as many as pay."""
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
                    room = active is not None or batcher.pays(running)
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

    threads = [threading.Thread(target=worker) for _ in range(active or MOST)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batcher.close()
    return time.perf_counter() - began, latencies, batcher.figures()


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
        kind: The network: by threads, one whose call takes the same time for any number of rows; or by the engine, the
            embedded model.
        rate: Jobs that arrive per second.
        seconds: For how long jobs arrive.
        active: Most runs at a time.
        call: Seconds of a call of the constant network.
        seed: Of the jobs and their arrivals.
    """
    torch.set_num_threads(1)
    jobs, pipe = jobs_of(rate, seconds, seed), constant(call)
    cases = {
        "joined, runs by measurement": (None, BatchSettings()),
        f"joined, up to {active} runs": (active, BatchSettings()),
        f"joined, exact, up to {active} runs": (active, BatchSettings(exact=True)),
        f"calls apart, up to {active} runs": (active, BatchSettings(max_rows=2, window=0.0)),
        "one run at a time": (1, BatchSettings()),
    }
    table = Table("engine", "jobs per second", "p50", "p99", "rows per call", "waits",
                  title=f"{len(jobs)} jobs, {rate:g} per second, {kind} network")  # fmt: skip
    for name, (most, settings) in cases.items():
        how = jobs, most, settings
        took, latencies, figures = by_engine(*how) if kind == "embedded" else by_threads(*how, pipe)
        ends = statistics.quantiles(latencies, n=100)
        speed, filled = len(jobs) / took, figures.rows / figures.calls
        table.add_row(
            name, f"{speed:.2f}", f"{ends[49]:.2f} s", f"{ends[98]:.2f} s", f"{filled:.2f}", str(figures.waits)
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    cyclopts.run(main)
