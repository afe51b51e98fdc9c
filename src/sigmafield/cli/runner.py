"""Running a job in a terminal: progress, previews, checkpoints, and what an interruption or a failure leaves."""

from __future__ import annotations

import json
import math
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from rich.text import Text

from sigmafield.cli.console import console
from sigmafield.cli.errors import as_json, complain
from sigmafield.cli.signals import Interrupted, Signals
from sigmafield.cli.terminal import Display
from sigmafield.core.plain import to_plain
from sigmafield.core.protocols import State
from sigmafield.recipes.build import Job
from sigmafield.recipes.execute import Result, execute
from sigmafield.recipes.image_io import sheet
from sigmafield.recipes.memory import is_out_of_memory
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.output import encoded
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.checkpoint import state_bytes
from sigmafield.runs.files import OwnFile, write_new

ENDING = ".checkpoint.safetensors"
"""How the name of a checkpoint ends; it begins like that of the image."""


class NotFinished(OSError):
    """Memory or disk did not suffice for a run, or its images could not be decoded; its state is kept."""


@dataclass(frozen=True)
class Watching:
    """What a run leaves while it goes.

    Args:
        previews: Steps between two preview files; None writes none.
        checkpoints: Seconds between two checkpoints; infinity writes none but when the run is interrupted.
        phases: Folder for the images at the end of each phase but the last; None writes none.

    Raises:
        ValueError: A number is out of range.
        FileNotFoundError: The folder does not exist.
    """

    previews: int | None = None
    checkpoints: float = 60.0
    phases: Path | None = None

    def __post_init__(self) -> None:
        if self.previews is not None and self.previews < 1:
            raise ValueError(f"--preview-every must be ≥ 1; got {self.previews}")
        if math.isnan(self.checkpoints) or self.checkpoints < 0:
            raise ValueError(f"--checkpoint-every must be seconds ≥ 0, or inf; got {self.checkpoints}")
        if self.phases and not self.phases.is_dir():
            raise FileNotFoundError(f"no folder {self.phases} to write the phases in")


def meta_of(recipe: Recipe, output: Path, machine: MachineOptions) -> dict[str, str]:
    """What a checkpoint says next to the state: what to draw, where to write it, and what the model ran on."""
    return {
        "recipe": recipe.to_json(),
        "output": str(output.absolute()),
        "machine": json.dumps(to_plain(machine)),
    }


class Watch:
    """What the terminal does with each state: progress, previews, checkpoints; it holds the last one.

    Args:
        job: What runs.
        output: The image that will be written; other files are named after it.
        display: Progress bar and live preview.
        machine: What the model runs on, for the checkpoint.
        how: What is written on the way.
        checkpoint: The file for the state; None is a new one next to the output.
        part: Which of the display's images it is.
        again: The command that goes on; None is `sigmafield resume` with the checkpoint.
    """

    def __init__(
        self,
        job: Job,
        output: Path,
        display: Display,
        machine: MachineOptions,
        how: Watching,
        checkpoint: OwnFile | None = None,
        part: int = 0,
        again: str | None = None,
    ):
        self.job, self.output, self.display, self.part, self.how, self.again = job, output, display, part, how, again
        self.last = job.start
        self.checkpoint = checkpoint or OwnFile(output.with_name(output.stem + ENDING))
        self._preview = OwnFile(output.with_name(f"{output.stem}-preview.png"))
        self._meta = meta_of(job.recipe, output, machine)
        self._label, self._begun, self._saved, self._trouble = "", False, monotonic(), False

    def __call__(self, state: State) -> None:
        """Note a state; called with the first one and after each step."""
        label, before, begun = self.job.run.label(state), self._label, self._begun
        self.last, self._label, self._begun = state, label, True
        self.display.update(self.job, state, self.part)
        if not begun:
            return
        if self.how.previews and state.i % self.how.previews == 0:
            self._attempt(self._preview, encoded([sheet(self.job.preview(state))], ".png"))
        if self.how.phases and label != before:
            name = re.sub(r"\W+", "-", before.partition(",")[0])
            image = encoded([sheet(self.job.images(state))], ".png")
            write_new(self.how.phases / f"{self.output.stem}-{name}.png", {"": image})
        if monotonic() - self._saved >= self.how.checkpoints and not self.job.run.done(state):
            self._attempt(self.checkpoint, self.state_bytes())
            self._saved = monotonic()

    def state_bytes(self) -> bytes:
        """The checkpoint of the last state."""
        return state_bytes(self.last, self._meta)

    def _attempt(self, file: OwnFile, data: bytes) -> None:
        """Write a file on the way; where that is not possible, say so once and go on."""
        try:
            file.write(data)
        except OSError as error:
            if not self._trouble:
                complain(f"cannot write {file.path} ({error.strerror or error}); the run goes on", kind="note")
            self._trouble = True

    def keep(self) -> str:
        """Save the last state; returns the command that goes on from it. OSError where no folder takes it."""
        data, again = self.state_bytes(), self.again
        try:
            self.checkpoint.write(data)
        except OSError:
            self.checkpoint, again = OwnFile(Path(tempfile.gettempdir()) / f"{self.output.stem}{ENDING}"), None
            self.checkpoint.write(data)
        return again or f"sigmafield resume {shlex.quote(str(self.checkpoint.path))}"


@contextmanager
def kept(watch: Watch) -> Iterator[None]:
    """What is done inside, running a job and writing its images, may be interrupted or fail; the state is kept.

    Raises:
        Interrupted: A signal came; the state is saved, and the user has been shown how to go on.
        NotFinished: Memory or disk did not suffice, or the images could not be decoded; the message says how to go on.
    """
    try:
        yield
    except Interrupted:
        if watch.last.i:
            what = f"interrupted after {steps(watch.last.i)}"
            try:
                go_on(f"{what}; finish it with: ", watch.keep())
            except OSError as trouble:
                go_on(f"{what}, and the state could not be saved: ", trouble.strerror or str(trouble))
        raise
    except Exception as error:
        done = watch.job.run.done(watch.last) and not isinstance(error, FloatingPointError)  # which would come again
        if not watch.last.i or not (done or is_out_of_memory(error) or isinstance(error, OSError)):
            raise
        raise NotFinished(not_finished(watch, error)) from error


def drawn(watch: Watch, write: Callable[[Result], list[Path]], state: State | None = None) -> tuple[Result, list[Path]]:
    """Run a job, write its files without a break, and remove its checkpoint; errors as for `kept`.

    Args:
        watch: What the terminal does meanwhile, with the job.
        write: Writes the files of the result.
        state: Where to go on from; None is the start.
    """
    signals = Signals()
    with signals.raised(), kept(watch):
        with watch.display:
            result = execute(watch.job, watch, state)
        with signals.held():
            files = write(result)
            watch.checkpoint.remove()
    return result, files


@contextmanager
def enough_memory() -> Iterator[None]:
    """What is done inside, loading a model and opening a job, may need more memory than there is.

    Raises:
        NotFinished: It does; the message says what takes less.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        what = " ".join(str(error).split()) or "out of memory"
        raise NotFinished(f"{what}: try --offload, --dtype float16, a smaller --size or --batch, or tiles") from error


def not_finished(watch: Watch, error: Exception) -> str:
    """What to say about a run that failed: the error, and how to go on from its state."""
    after, what = steps(watch.last.i), " ".join(str(error).split()) or type(error).__name__
    try:
        again = watch.keep()
    except OSError as trouble:
        return f"{what}; and the state after {after} could not be saved: {trouble.strerror or trouble}"
    more = "with --offload, another --dtype or on another machine, " if is_out_of_memory(error) else ""
    return f"{what}; the state after {after} is kept: {more}finish it with: {again}"


def steps(n: int) -> str:
    """A number of steps in words."""
    return "1 step" if n == 1 else f"{n} steps"


def go_on(text: str, command: str) -> None:
    """Say on the error stream how to go on, or why that is not possible; a closed terminal is not an error."""
    with suppress(OSError):
        if as_json():
            complain(text + command, kind="note")
        else:
            console(stderr=True, soft_wrap=True).print(Text.assemble(text, (command, "bold")))
