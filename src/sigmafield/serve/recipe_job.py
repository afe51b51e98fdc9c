"""A job that is a recipe: from its request, or its last saved state, to the files of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from sigmafield.core.protocols import State
from sigmafield.recipes.build import Job
from sigmafield.recipes.execute import execute, open_job
from sigmafield.recipes.label import label
from sigmafield.recipes.output import encoded
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.checkpoint import load_state, state_bytes
from sigmafield.serve.device import Device
from sigmafield.serve.files import JobFiles
from sigmafield.serve.live import Live, Point, Stopped

META = "recipe"
"""Name of the string in a state's file that holds the recipe, with the digests of its files."""


@dataclass(frozen=True)
class Made:
    """A file that a job has made, in memory.

    Args:
        name: Its name.
        media_type: As HTTP names it.
        size: (width, height) in pixels.
        data: Its bytes.
    """

    name: str
    media_type: str
    size: tuple[int, int]
    data: bytes


class Watch:
    """What happens between the steps of a recipe's run."""

    def __init__(self, job: Job, live: Live):
        self.job, self.live, self.begun = job, live, False
        self.last = job.start

    def __call__(self, state: State) -> None:
        """Note a state; called with the first one and after each step."""
        self.last = state
        point = point_of(self.job, state)
        if not self.begun:
            self.begun = True
            self.live.begin(point)
        else:
            self.live.step(point, lambda: self.job.preview(state))
        done = self.job.run.done(state)
        if self.live.stop == "cancelled":
            raise Stopped
        if self.live.stop is not None and (self.save() or self.live.stop != "displaced"):
            raise Stopped
        if self.live.should_save and not done:
            self.save()

    def save(self) -> bool:
        """Save the last state."""
        return self.live.save(state_bytes(self.last, {META: self.job.recipe.to_json()}))


def run_recipe(live: Live, device: Device) -> list[Made]:
    """Run a recipe to its end, from its last saved state if there is one.

    Args:
        live: The job.
        device: What it runs on.

    Raises:
        Stopped: It was asked to stop; its state is saved, unless it is cancelled.
    """
    recipe, state = start_of(live)
    job = open_job(recipe, device.pipe(recipe))
    check_start(job, state)
    watch = Watch(job, live)
    result = execute(job, watch, state)
    return list(made_of(job.recipe, result.images))


def start_of(live: Live) -> tuple[Recipe, State | None]:
    """The recipe and the last state that can be read; None where the run begins."""
    for path in reversed(live.files.states().values()):
        try:
            state, meta = load_state(path)
            return Recipe.from_json(meta[META]), state
        except (ValueError, KeyError):  # of another version of sigmafield: an older one, or the start, gives the same
            continue
    return Recipe.from_plain(live.record.request), None


def check_start(job: Job, state: State | None) -> None:
    """Raise ValueError for a state that is not one of this run, as that of a clone may be."""
    if state is not None and "phase" not in state.aux and state.x.shape[0] != job.start.x.shape[0]:
        raise ValueError(
            f"the saved state has latents of {tuple(state.x.shape)}, this run has {tuple(job.start.x.shape)}: "
            "clone from the beginning"
        )


def point_of(job: Job, state: State) -> Point:
    """How far a run is."""
    return Point(state.i, job.run.n, job.run.progress(state), job.run.label(state))


def made_of(recipe: Recipe, images: Sequence[Sequence[Image.Image]]) -> list[Made]:
    """A PNG for each image of the batch, animated for a video, with the recipe in it."""
    return [
        Made(f"{k}.png", "image/png", frames[0].size, encoded(frames, ".png", label(recipe, k)))
        for k, frames in enumerate(images)
    ]


def copied_state(path: Path, changes: dict[str, object]) -> tuple[Recipe, bytes]:
    """(the recipe of a saved state with some entries changed, the state with that recipe)."""
    state, meta = load_state(path)
    recipe = Recipe.from_plain({**Recipe.from_json(meta[META]).to_plain(), **changes})
    return recipe, state_bytes(replace(state, pred=None), {META: recipe.to_json()})


__all__ = ["JobFiles", "Made", "copied_state", "run_recipe"]
