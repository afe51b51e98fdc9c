"""Engines for tests: started on a folder, jobs submitted and waited for."""

import itertools
import queue
import resource
import threading
import time
from contextlib import contextmanager
from unittest import mock

from sigmafield.models.tiny.unet import UNet
from sigmafield.serve.engine import Engine
from sigmafield.serve.jobs import FINISHED
from sigmafield.serve.settings import EngineSettings
from sigmafield.serve.workflow_job import Workflows

LONG = 60.0
"""Seconds after which a job that has not come to what is waited for is given up."""


@contextmanager
def started(folder, workflows=Workflows(), **settings):
    """An engine that runs, by default without joined calls, which change last bits; it is stopped at the end."""
    engine = Engine(folder, EngineSettings(**{"devices": ["cpu"], "max_rows": 1, "active": 2, **settings}), workflows)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()


def recipe(prompt="a red heart", **entries):
    """A recipe's request of few steps."""
    return {"prompt": prompt, "steps": 4, "cfg": 1.0, **entries}


def workflow(prompt="a red heart", seed=1, steps=4, sampler="euler", side=128):
    """A workflow's request: from a checkpoint to a saved image."""
    nodes = {
        "4": ("CheckpointLoaderSimple", {"ckpt_name": "tiny"}),
        "6": ("CLIPTextEncode", {"text": prompt, "clip": ["4", 1]}),
        "7": ("CLIPTextEncode", {"text": "", "clip": ["4", 1]}),
        "5": ("EmptyLatentImage", {"width": side, "height": side, "batch_size": 1}),
        "3": ("KSampler", {
            "seed": seed, "steps": steps, "cfg": 3.0, "sampler_name": sampler, "scheduler": "normal", "denoise": 1.0,
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
        }),
        "8": ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
        "9": ("SaveImage", {"images": ["8", 0], "filename_prefix": "heart"}),
    }  # fmt: skip
    return {"prompt": {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}}


def until(engine, condition):
    """Wait until a condition on the engine holds; it is looked at after each event."""
    changed = threading.Event()
    end = engine.listen(lambda id: changed.set())
    try:
        late = time.monotonic() + LONG
        while not condition():
            assert time.monotonic() < late, "nothing has come of it"
            changed.wait(0.05)
            changed.clear()
    finally:
        end()


def finished(engine, *jobs):
    """The records of jobs once all have ended."""
    until(engine, lambda: all(engine.get(job.id).status in FINISHED for job in jobs))
    return [engine.get(job.id) for job in jobs]


def stepped(engine, job, steps=1):
    """Wait until a job has taken some steps."""
    until(engine, lambda: engine.get(job.id).step >= steps)


@contextmanager
def network_waits(calls):
    """After some calls of the embedded network, those that follow wait until the event is set that this gives."""
    forward, made, go = UNet.forward, itertools.count(), threading.Event()

    def waiting(network, *args):
        if next(made) >= calls:
            go.wait(LONG)
        return forward(network, *args)

    try:
        with mock.patch.object(UNet, "forward", waiting):
            yield go
    finally:
        go.set()


class Stops:
    """Steps of an engine's jobs after which each waits, in its own thread, for what is done meanwhile."""

    def __init__(self, engine, *steps):
        self.engine, self.steps = engine, steps
        self.seen, self.came, self.go = set(), queue.SimpleQueue(), queue.SimpleQueue()
        engine.listen(self._wait)

    def _wait(self, id):
        if threading.current_thread().name != f"job {id}":
            return
        at = id, self.engine.get(id).step
        if at[1] in self.steps and at not in self.seen:
            self.seen.add(at)
            self.came.put(id)
            self.go.get(timeout=LONG)

    @contextmanager
    def reached(self):
        """While this lasts, the next job that came to such a step waits."""
        self.came.get(timeout=LONG)
        try:
            yield
        finally:
            self.go.put(None)


def digests(record):
    """What the outputs of a done job are known by."""
    assert record.status == "done", record.error
    return [output.sha256 for output in record.outputs]


def kinds(engine, job, but=("step",)):
    """The kinds of what has happened to a job, in order."""
    return [event.kind for event in engine.events(job.id) if event.kind not in but]


@contextmanager
def full_disk():
    """While this lasts, the disk takes nothing more: no file of this process can be written to."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
