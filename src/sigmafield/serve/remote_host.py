"""A device in a process of its own, for an engine elsewhere: it runs jobs, and what happens to them is fetched."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread

from sigmafield.recipes.inputs import Inputs, located, sealed_lora
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.checkpoint import load_state
from sigmafield.serve.device import Device
from sigmafield.serve.failure import failure_text
from sigmafield.serve.figures import DeviceFigures
from sigmafield.serve.files import JobFiles
from sigmafield.serve.jobs import JobRecord
from sigmafield.serve.live import Live, Point, Stop, Stopped
from sigmafield.serve.recipe_job import draw
from sigmafield.serve.settings import EngineSettings
from sigmafield.serve.workflow_job import Workflows, run_workflow

WAIT = 0.1
"""Seconds that a request for news waits for some."""

MOST = 64
"""Jobs of one device at the same time, at most."""


@dataclass(frozen=True)
class Handed:
    """A job as it is handed over.

    Args:
        record: The job.
        recipe: With the digests of its files; None for a workflow.
        inputs: What the recipe's files hold.
        said: The recipe as it is written into the images.
        state: (steps, bytes) of its last state; None is the start.
        outputs: Files that a workflow has written so far.
    """

    record: JobRecord
    recipe: Recipe | None = None
    inputs: Inputs = Inputs()
    said: Recipe | None = None
    state: tuple[int, bytes] | None = None
    outputs: Mapping[str, bytes] | None = None


@dataclass(frozen=True)
class Happened:
    """Something that has happened to a job.

    Args:
        kind: begun, moved, stepped, saved, done, stopped or failed.
        point: How far the job is.
        data: A step's preview, a JPEG, or a state.
        seconds: What a step took.
        outputs: Files that the job has written so far.
        error: Why it failed.
    """

    kind: str
    point: Point
    data: bytes | None = None
    seconds: float = 0.0
    outputs: Mapping[str, bytes] | None = None
    error: str = ""


@dataclass(frozen=True)
class News:
    """What has happened to a job since it was asked for last.

    Args:
        happened: In order.
        room: Jobs that should run here at the same time.
        figures: Of the device.
    """

    happened: Sequence[Happened]
    room: int
    figures: DeviceFigures


class SentLive(Live):
    """A job whose steps and states are fetched by the engine."""

    def __init__(self, record: JobRecord, files: JobFiles, settings: EngineSettings):
        super().__init__(record, files, settings)
        self.queue: SimpleQueue[Happened] = SimpleQueue()

    def begin(self, point: Point) -> None:
        """Note where the thread begins."""
        super().begin(point)
        self.queue.put(Happened("begun", point))

    def move(self, point: Point) -> None:
        """Note how far the job is, between two steps."""
        super().move(point)
        self.queue.put(Happened("moved", point))

    def note(self, point: Point, preview: bytes | None, seconds: float) -> None:
        """Note a step with its preview."""
        self.point = point
        self.queue.put(Happened("stepped", point, preview, seconds))

    def keep(self, data: bytes) -> bool:
        """Send a state, with the files so far, which a workflow needs to go on."""
        self.queue.put(Happened("saved", self.point, data, outputs=self.files.written()))
        return True


class Host:
    """One device and the jobs that it runs; any thread may call any method.

    Args:
        settings: How models are loaded and calls joined.
        device: As torch names it here.
        workflows: What workflows find.
    """

    def __init__(self, settings: EngineSettings, device: str, workflows: Workflows):
        self._root = Path(tempfile.mkdtemp(prefix="sigmafield-"))
        self._settings, self._workflows, self._lock = settings, workflows, Lock()
        self._device = Device(device, settings)
        self._runs: dict[str, SentLive] = {}

    def load(self, models: Sequence[str]) -> str:
        """Load models; returns the version of sigmafield here."""
        for model in models:
            self._device.load(model)
        return version("sigmafield")

    def begin(self, handed: Handed) -> None:
        """Begin with a job."""
        files = JobFiles(self._root, handed.record.id)
        files.remove()
        if handed.state is not None:
            files.save_state(*handed.state, keep=1)
        files.save_outputs(handed.outputs or {})
        live = SentLive(handed.record, files, self._settings)
        with self._lock:
            self._runs[handed.record.id] = live
        Thread(target=self._run, args=(live, handed), name=f"job {handed.record.id}", daemon=True).start()

    def news(self, id: str, stop: Stop | None) -> News:
        """What has happened to a job, and ask it to stop; waits a little for something to happen."""
        live = self._runs[id]
        live.stop = stop
        found: list[Happened] = []
        try:
            found.append(live.queue.get(timeout=WAIT))
            while True:
                found.append(live.queue.get_nowait())
        except Empty:
            pass
        if found and found[-1].kind in ("done", "stopped", "failed"):
            with self._lock:
                del self._runs[id]
            live.files.remove()
        room = next(runs for runs in count(1) if runs == MOST or not self._device.has_room(runs))
        return News(found, room, self._device.figures(len(self._runs)))

    def close(self) -> None:
        """Remove what is left."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _run(self, live: SentLive, handed: Handed) -> None:
        try:
            if handed.recipe is None:
                names = run_workflow(live, self._device, self._workflows)
            else:
                names = self._draw(live, handed, handed.recipe)
            outputs = {name: live.files.written()[name] for name in names}
            live.queue.put(Happened("done", live.point, outputs=outputs))
        except Stopped:
            live.queue.put(Happened("stopped", live.point))
        except BaseException as error:  # a custom node may raise SystemExit
            live.queue.put(Happened("failed", live.point, error=failure_text(live.record.id, error)))

    def _draw(self, live: SentLive, handed: Handed, recipe: Recipe) -> list[str]:
        for lora in recipe.loras:
            sealed_lora(lora)
        state = None if handed.state is None else load_state(live.files.state(handed.state[0]))[0]
        return draw(live, self._device, recipe, handed.inputs, handed.said or recipe, state)


def handed_over(live: Live, recipe: Recipe, inputs: Inputs, said: Recipe, step: int | None) -> Handed:
    """A recipe's job as it is handed over.

    Args:
        live: The job.
        recipe: With the digests of its files.
        inputs: What they hold.
        said: The recipe as it is written into the images.
        step: Of the state that it goes on from; None is the start.
    """
    state = None if step is None else (step, live.files.state(step).read_bytes())
    return Handed(live.record, located(recipe), inputs, said, state)
