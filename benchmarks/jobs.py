"""What the engine of the server adds to a job, and what many jobs leave: `latency`, and `soak` with jobs that fail."""

import random
import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import torch
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table

import sigmafield as sf
from sigmafield.recipes.label import label
from sigmafield.recipes.output import encoded
from sigmafield.serve.engine import Engine
from sigmafield.serve.jobs import FINISHED, Event, JobRecord, Kind
from sigmafield.serve.settings import EngineSettings

RECIPE = {"prompt": "a red heart", "steps": 8, "cfg": 3.0, "sampler": "euler"}
SAMPLERS = ("euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "heun", "dpmpp_3m_sde", "uni_pc", "lcm")
BAD = ({"image": "/nowhere.png"}, {"model": "/nowhere"}, {"loras": [{"path": "/nowhere.safetensors"}]})

app = cyclopts.App(help=__doc__)
Count = Annotated[int, Parameter(validator=Number(gte=1))]


@contextmanager
def engine_of(**settings: Any) -> Iterator[Engine]:
    """An engine on a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="sigmafield-jobs-"))
    engine = Engine(folder, EngineSettings(devices=["cpu"], **settings))
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(folder)


def ended(engine: Engine, id: str) -> list[Event]:
    """The events of a job once it has ended."""
    changed = threading.Event()
    end = engine.listen(lambda id: changed.set())
    while (record := engine.get(id)).status not in FINISHED:
        changed.wait(0.1)
        changed.clear()
    end()
    assert record.status == "done", record.error
    return engine.events(id)


@app.command
def latency(rounds: Count = 40) -> None:
    """Print the time from submit to the first step, and from the last step to the image, next to those of `execute`.

    The image is written as a PNG file on both sides. Times are the shortest of several rounds, so that other programs
    disturb less.

    Args:
        rounds: Jobs that are timed, in turn with runs without an engine.
    """
    torch.set_num_threads(1)
    pipe, times = sf.load("tiny", device="cpu"), {name: list[float]() for name in ("first", "last", "own", "own last")}
    with engine_of(active=1) as engine, tempfile.TemporaryDirectory() as folder:
        for k in range(rounds + 1):
            stamps = [time.time()]
            job = sf.open_job(sf.Recipe.from_plain({**RECIPE, "seed": k}), pipe)
            result = sf.execute(job, lambda state, stamps=stamps: stamps.append(time.time()))
            data = encoded(result.images[0], ".png", label(job.recipe, 0))
            (Path(folder) / "0.png").write_bytes(data)
            own = stamps[2] - stamps[0], time.time() - stamps[-1]
            began = time.time()
            events = ended(engine, engine.submit("recipe", {**RECIPE, "seed": k}).id)
            steps = [event.time for event in events if event.kind == "step"]
            if k:
                for name, seconds in zip(times, (steps[0] - began, events[-1].time - steps[-1], *own)):
                    times[name].append(seconds)
    first, last, own, own_last = (min(each) * 1000 for each in times.values())
    table = Table("", "engine", "execute", "added", title=f"milliseconds, shortest of {rounds} jobs")
    table.add_row("submit to the end of the first step", f"{first:.1f}", f"{own:.1f}", f"{first - own:.1f}")
    table.add_row("last step to the image's file", f"{last:.1f}", f"{own_last:.1f}", f"{last - own_last:.1f}")
    Console(width=100).print(table)
    added = first - own + last - own_last
    print(f"added in all: {added:.1f} ms; goal ≤ 20 ms: {'met' if added <= 20 else 'MISSED'}")


def random_job(pick: random.Random) -> tuple[Kind, dict[str, Any], bool]:
    """(kind, request, whether it is a bad one) of a job; one of ten is bad."""
    steps = pick.randint(1, 4)
    bad = pick.random() < 0.1
    if not bad and pick.random() < 0.2:
        return "workflow", workflow(pick.randrange(1000), steps), False
    recipe = {
        "prompt": pick.choice(("a red heart", "a rocket", "a pizza")),
        "steps": steps,
        "seed": pick.randrange(1000),
    }
    recipe |= {"sampler": pick.choice(SAMPLERS), "cfg": pick.choice((1.0, 3.0)), "batch": pick.choice((1, 1, 2))}
    return "recipe", {**recipe, **(pick.choice(BAD) if bad else {})}, bad


def workflow(seed: int, steps: int) -> dict[str, Any]:
    """A workflow's request: from a checkpoint to a saved image."""
    sampler = {"seed": seed, "steps": steps, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]}
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "1": ("CheckpointLoaderSimple", {"ckpt_name": "tiny"}),
        "2": ("CLIPTextEncode", {"text": "a red heart", "clip": ["1", 1]}),
        "3": ("CLIPTextEncode", {"text": "", "clip": ["1", 1]}),
        "4": ("EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 1}),
        "5": ("KSampler", {**sampler, **links}),
        "6": ("VAEDecode", {"samples": ["5", 0], "vae": ["1", 2]}),
        "7": ("SaveImage", {"images": ["6", 0], "filename_prefix": "soak"}),
    }
    return {"prompt": {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}}


@app.command
def soak(jobs: Count = 2000, seed: int = 0) -> None:
    """Run many jobs of random kinds, one of ten of them bad, and print how they ended and the process's memory.

    Args:
        jobs: How many.
        seed: Of the jobs.
    """
    torch.set_num_threads(1)
    pick, unexpected, memory, ends = random.Random(seed), list[JobRecord](), list[float](), Counter[str]()
    errors: list[str] = []
    threading.excepthook = lambda info: errors.append(f"{info.thread}: {info.exc_value!r}")
    with engine_of(active=4, keep_jobs=100, save_every=0.0) as engine:
        waiting: dict[str, bool] = {}
        for k in range(jobs):
            while len(waiting) >= 16:
                time.sleep(0.01)
                collect(engine, waiting, ends, unexpected)
            kind, request, bad = random_job(pick)
            waiting[engine.submit(kind, request, priority=pick.choice((0, 0, 1))).id] = bad
            if (k + 1) % max(1, jobs // 20) == 0:
                memory.append((engine.figures().memory or 0) / 2**20)
                print(f"{k + 1} jobs, {memory[-1]:.0f} MiB", flush=True)
        while waiting:
            time.sleep(0.01)
            collect(engine, waiting, ends, unexpected)
    settled = memory[len(memory) // 4 :]
    spread = (max(settled) - min(settled)) / statistics.median(settled) / 2
    print(f"ended: {dict(ends)}; not as they should: {len(unexpected)}; errors outside of jobs: {len(errors)}")
    print(f"memory after the first quarter: {min(settled):.0f} … {max(settled):.0f} MiB, ± {100 * spread:.1f} %")
    met = spread <= 0.05 and not unexpected and not errors
    print(f"goal ± 5 %, no errors, every job ends: {'met' if met else 'MISSED'}")
    for record in unexpected[:5]:
        print(record.id, record.status, record.error)


def collect(engine: Engine, waiting: dict[str, bool], ends: Counter[str], unexpected: list[JobRecord]) -> None:
    """Take the jobs that have ended out of those that are waited for."""
    for id, bad in list(waiting.items()):
        record = engine.get(id)
        if record.status in FINISHED:
            del waiting[id]
            ends[record.status] += 1
            if record.status != ("failed" if bad else "done"):
                unexpected.append(record)


if __name__ == "__main__":
    app()
