"""Running a job in a terminal: progress, previews, interruption, and the files that it leaves."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

from PIL import Image
from rich.text import Text

from sigmafield import __version__
from sigmafield.cli.console import console
from sigmafield.cli.terminal import Display
from sigmafield.core.protocols import State
from sigmafield.recipes.build import Job
from sigmafield.recipes.execute import Result, execute
from sigmafield.recipes.image_io import save_png, sheet, sheets
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.checkpoint import save_state


class Watch:
    """What the terminal does with each state: progress, previews, images of phases; it holds the last one.

    Args:
        job: What runs.
        output: The PNG that will be written; previews are named after it.
        display: Progress bar and live preview.
        part: Which of the display's images it is.
        every: Steps between two preview files; None writes none.
        phases: Folder for the images at the end of each phase but the last; None writes none.
    """

    def __init__(self, job: Job, output: Path, display: Display, part: int, every: int | None, phases: Path | None):
        self.job, self.output, self.display, self.part = job, output, display, part
        self.every, self.phases = every, phases
        self.last = job.start
        self._label = ""

    def __call__(self, state: State) -> None:
        """Note a state; called with the first one and after each step."""
        label, before, first = self.job.run.label(state), self._label, self.last is self.job.start
        self.last, self._label = state, label
        self.display.update(self.job, state, self.part)
        if self.every and state.i and state.i % self.every == 0:
            save_png(sheet(self.job.preview(state)), self.output.with_name(f"{self.output.stem}-preview.png"))
        if self.phases and not first and label != before:
            name = re.sub(r"\W+", "-", before.partition(",")[0])
            save_png(sheet(self.job.images(state)), self.phases / f"{self.output.stem}-{name}.png")


def draw(
    job: Job,
    state: State | None,
    output: Path,
    display: Display,
    part: int = 0,
    every: int | None = None,
    phases: Path | None = None,
) -> Result:
    """Run a job; an interruption leaves a checkpoint in the output's folder and ends the program with status 130.

    Args:
        job: What to run.
        state: Where to go on from; None is the start.
        output: The PNG that will be written.
        display, part, every, phases: See `Watch`.
    """
    for kind in (signal.SIGINT, signal.SIGTERM):  # a polite kill is an interruption too
        signal.signal(kind, signal.default_int_handler)
    watch = Watch(job, output, display, part, every, phases)
    try:
        with display:
            return execute(job, watch, state)
    except KeyboardInterrupt:
        keep(job, watch.last, output)
        sys.exit(130)


def keep(job: Job, state: State, output: Path) -> None:
    """Save an interrupted run in its output's folder and say how to go on."""
    path = output.with_name(f"{output.stem}.checkpoint.safetensors")
    save_state(state, path, {"recipe": job.recipe.to_json(), "output": str(output)})
    done = "1 step" if state.i == 1 else f"{state.i} steps"
    line = Text.assemble(f"interrupted after {done}; finish it with: ", (f"sigmafield resume {path}", "bold"))
    console(stderr=True, soft_wrap=True).print(line)


def check_folder(path: Path) -> None:
    """Raise FileNotFoundError for a file whose folder does not exist."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} in")


def write(images: list[list[Image.Image]], output: Path, recipe: Recipe) -> list[Path]:
    """One PNG, or for a batch a sheet of all and one PNG each; all carry the recipe.

    Videos are animated PNGs, and NAME-frames.png is a sheet of all frames.
    """
    files, index = [output], None if len(images) > 1 else 0
    whole = sheets(images) if len(images) > 1 else images[0]
    save_png(whole[0], output, label(recipe, index), whole[1:])
    for k, frames in enumerate(images if len(images) > 1 else ()):
        files.append(output.with_name(f"{output.stem}-{k + 1}{output.suffix}"))
        save_png(frames[0], files[-1], label(recipe, k), frames[1:])
    if len(whole) > 1:
        save_png(sheet(whole), output.with_name(f"{output.stem}-frames{output.suffix}"))
    return files


def label(recipe: Recipe, index: int | None) -> str:
    """What a PNG carries: the recipe, and which image of the batch it is; None is the sheet of all."""
    whole = {"sigmafield": __version__, "image": index, "recipe": recipe.to_plain()}
    return json.dumps(whole, ensure_ascii=False)
