"""Progress and preview of a run in the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType

import numpy as np
from PIL import Image
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from sigmafield.cli.console import console
from sigmafield.core.protocols import State
from sigmafield.recipes.build import Job
from sigmafield.recipes.image_io import sheet
from sigmafield.recipes.recipe import Recipe

PREVIEW_EVERY = 0.2
"""Seconds between two previews, so that they cost little of a fast run."""

SPEED_PERIOD = 3600.0
"""Seconds whose speed the time left is estimated from, so that steps and decodings count as they come."""

PREVIEW_WIDTH = 32
"""Columns of the terminal that a preview takes; two pixels fit above each other in a character."""


class Display:
    """A progress bar with the time left and, in a terminal and for models that have one, a preview.

    Args:
        quiet: Show nothing.
        steps: Steps of each image, or batch of images, that the bar is for; it may be entered again for each of them.
    """

    def __init__(self, quiet: bool, steps: Sequence[int]):
        out = console(stderr=True)
        self._live_preview = out.is_terminal and out.color_system == "truecolor"
        self._bar = progress_bar(out)
        self._steps = tuple(steps)
        self._task = self._bar.add_task("", total=sum(steps), note="")
        self._live = Live(self._bar, console=out, refresh_per_second=8, transient=True)
        self._quiet = quiet or not out.is_terminal
        self._last = 0.0

    def __enter__(self) -> Display:
        if not self._quiet:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if not self._quiet:
            with suppress(OSError):  # the terminal has been closed, which the signal that follows says
                self._live.stop()

    def update(self, job: Job, state: State, part: int = 0) -> None:
        """Show how far the run of a part is, and now and then what it sees."""
        if self._quiet:
            return
        note = rows_text(*job.rows(state)) if job.recipe.tiling else ""
        note = job.run.label(state) or note
        self.show(job.recipe, job.run.progress(state), note, lambda: job.preview(state), part)

    def show(
        self, recipe: Recipe, progress: float, note: str, preview: Callable[[], Sequence[Image.Image]], part: int = 0
    ) -> None:
        """Show how far a run is that may be elsewhere.

        Args:
            recipe: What it draws.
            progress: Share of it that is done, 0 … 1.
            note: Where it is, in words.
            preview: What it sees, which is asked for now and then.
            part: Which of the images it is.
        """
        parts = len(self._steps)
        name = (
            f"{part + 1} of {parts}: {recipe.prompt[:40]}" if parts > 1 else f"{recipe.sampler}, {recipe.steps} steps"
        )
        done = sum(self._steps[:part]) + self._steps[part] * progress
        self._bar.update(self._task, completed=done, description=name, note=note)
        if not self._quiet and self._live_preview and time.monotonic() - self._last > PREVIEW_EVERY:
            images = preview()
            if images:
                self._live.update(Group(blocks(sheet(images, gap=0)), self._bar))
            self._last = time.monotonic()


def progress_bar(out: Console) -> Progress:
    """Makes an empty progress bar on a console; its tasks have a field `note`."""
    return Progress(
        TextColumn("{task.description}", markup=False),  # prompts are text
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=out,
        speed_estimate_period=SPEED_PERIOD,
    )


def rows_text(spent: int, plain: int) -> str:
    """How many network rows there were, and what was saved, in words."""
    apart = f", {abs(plain - spent)} {'fewer' if spent < plain else 'more'} than plain tiling" * (spent != plain)
    return f"{spent} network rows{apart}"


def blocks(image: Image.Image, width: int = PREVIEW_WIDTH) -> Text:
    """An image in characters: upper half blocks, the foreground above the background."""
    height = max(1, round(width * image.height / image.width / 2)) * 2
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BOX))
    text = Text()
    for y in range(0, height, 2):
        for x in range(width):
            upper, lower = (",".join(map(str, pixels[row, x])) for row in (y, y + 1))
            text.append("▀", f"rgb({upper}) on rgb({lower})")
        text.append("\n")
    return text
