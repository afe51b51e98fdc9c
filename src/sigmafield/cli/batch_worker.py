"""What a worker of a cluster does with a line of a batch: it draws the images and gives their files as bytes."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Thread
from time import monotonic, perf_counter

from sigmafield.cli.runner import Watching, enough_memory
from sigmafield.cli.shared import Shared
from sigmafield.cli.single import check_previews
from sigmafield.comfyui.workflow.carried import workflow_texts
from sigmafield.core.protocols import State
from sigmafield.recipes.build import Job
from sigmafield.recipes.execute import Result, execute, open_job
from sigmafield.recipes.image_io import sheet
from sigmafield.recipes.inputs import Inputs, sealed_lora
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.output import encoded, files_of
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.checkpoint import load_state, state_bytes

NEWS = 0.25
"""Seconds between two reports of a line's progress."""

STATES = 5.0
"""Seconds between two states that are sent, at most: what is lost with a worker."""


@dataclass(frozen=True)
class Order:
    """A line to be drawn by a worker, which needs none of the driver's files except models and LoRAs.

    Args:
        line: Its number.
        recipe: Its recipe, with the digests of its files.
        inputs: What its files hold.
        here: The recipe with absolute paths of the model, the LoRAs and the controls' networks.
        meta: Strings that a checkpoint holds in addition to the state.
        state: A checkpoint to begin from; None is the start.
    """

    line: int
    recipe: Recipe
    inputs: Inputs
    here: Recipe
    meta: Mapping[str, str]
    state: bytes | None = None


@dataclass(frozen=True)
class Drawn:
    """A finished line.

    Args:
        files: Bytes of its files, by what follows the name.
        nfe: Evaluations of the network.
        rows: See `Result.rows`.
        savings: See `Result.savings`.
        seconds: What it took, since the worker began with it.
    """

    files: dict[str, bytes]
    nfe: int
    rows: tuple[int, int]
    savings: Sequence[str]
    seconds: float


@dataclass(frozen=True)
class News:
    """How far a line is.

    Args:
        step: Steps taken.
        progress: Share of the way, 0 … 1.
        label: What the run is doing, see `Steps.label`.
        notes: What a user should know of the job, and warnings.
        preview: A PNG of what the network sees, every `preview-every` steps.
        drawn: The files, in the last report.
    """

    step: int
    progress: float
    label: str = ""
    notes: Sequence[str] = ()
    preview: bytes | None = None
    drawn: Drawn | None = None


class LineWork:
    """Draws lines, and keeps the model from one to the next: the work of `cluster.pool.each`.

    Args:
        machine: What the models run on.
        how: What is written on the way.
    """

    def __init__(self, machine: MachineOptions, how: Watching):
        self.machine, self.how = machine, how
        self._shared: Shared | None = None

    def __call__(self, order: Order, saved: bytes | None) -> Iterator[tuple[News, bytes | None]]:
        """Draw a line, from the state that was saved last.

        Raises:
            ValueError: The recipe and the model do not fit, or a LoRA is another one here.
            OSError: A file is missing here, or memory does not suffice.
        """
        began = perf_counter()
        with enough_memory(), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            job = self._opened(order)
            yield News(0, 0.0, notes=[*job.notes, *own_texts(warned)]), None
            for news in _Reports(job, order, self.how, _state_of(saved or order.state)).until_the_end():
                if isinstance(news, Result):
                    texts = workflow_texts(replace(job, recipe=order.recipe))  # with the paths that the driver knows
                    files = files_of(news.images, ".png", order.recipe, texts)
                    drawn = Drawn(files, news.state.nfe, news.rows, news.savings, perf_counter() - began)
                    yield News(news.state.i, 1.0, drawn=drawn), None
                else:
                    yield news

    def _opened(self, order: Order) -> Job:
        self._shared = shared = self._shared or Shared(self.machine)
        for lora in order.here.loras:
            sealed_lora(lora)
        pipe = shared.pipe(order.here)
        check_previews(pipe, self.how)
        return open_job(order.here, pipe, order.inputs, shared.steering(order.here, order.inputs, pipe))


class _Reports:
    """A job that runs in a thread, so that it does not wait until its reports are fetched."""

    def __init__(self, job: Job, order: Order, how: Watching, state: State | None):
        self._job, self._order, self._how, self._state = job, order, how, state
        self._queue: SimpleQueue[tuple[News, bytes | None] | Result | BaseException] = SimpleQueue()
        self._told = self._saved = monotonic()

    def until_the_end(self) -> Iterator[tuple[News, bytes | None] | Result]:
        """Reports, then the result; what the run raises is raised."""
        Thread(target=self._run, daemon=True).start()
        while True:
            news = self._queue.get()
            if isinstance(news, BaseException):
                raise news
            yield news
            if isinstance(news, Result):
                return

    def _run(self) -> None:
        try:
            self._queue.put(execute(self._job, self._note, self._state))
        except BaseException as error:
            self._queue.put(error)

    def _note(self, state: State) -> None:
        """Report a state, if it is time for that."""
        now, preview, saved, run = monotonic(), None, None, self._job.run
        if self._how.previews and state.i and state.i % self._how.previews == 0:
            preview = encoded([sheet(self._job.preview(state))], ".png")
        if state.i and now - self._saved >= min(STATES, self._how.checkpoints) and not run.done(state):
            saved, self._saved = state_bytes(state, self._order.meta), now
        if preview or saved or now - self._told >= NEWS:
            self._told = now
            self._queue.put((News(state.i, run.progress(state), run.label(state), preview=preview), saved))


def own_texts(warned: Sequence[warnings.WarningMessage]) -> list[str]:
    """Warnings of this package."""
    own = __file__.rpartition("cli")[0]
    return [str(each.message) for each in warned if each.filename.startswith(own)]


def _state_of(data: bytes | None) -> State | None:
    """The state in the bytes of a checkpoint."""
    if data is None:
        return None
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        return load_state(file.name)[0]
