"""An image drawn again from the recipe that it carries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sigmafield.cli.runner import Watch, Watching, drawn
from sigmafield.cli.single import Target, check_video
from sigmafield.cli.terminal import Display
from sigmafield.comfyui.workflow.carried import workflow_texts
from sigmafield.recipes.execute import Result, open_job, open_pipe
from sigmafield.recipes.image_io import sheets
from sigmafield.recipes.label import label
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.output import encoded
from sigmafield.recipes.recipe import Recipe

Replayed = tuple[Sequence[Image.Image], Path]
"""An image, or the frames of a video, and the file that they are written to."""


def replay_here(
    recipe: Recipe, target: Target, index: int | None, options: MachineOptions, *, as_json: bool
) -> Replayed:
    """Draw an image again on this machine.

    Args:
        recipe: What it carries.
        target: Where it is written.
        index: Which image of the batch it is; None is the sheet of all.
        options: What the model runs on.
        as_json: Show no progress.
    """
    job = open_job(recipe, open_pipe(recipe, **options.load_arguments()))
    check_video(job, target.path)
    watch, texts = Watch(job, target.path, Display(as_json, [recipe.steps]), options, Watching()), workflow_texts(job)

    def write(end: Result) -> list[Path]:
        frames = chosen(end.images, index)
        return target.write({"": encoded(frames, target.path.suffix, label(job.recipe, index), texts)})

    result, [written] = drawn(watch, write)
    return chosen(result.images, index), written


def chosen(images: Sequence[Sequence[Image.Image]], index: int | None) -> Sequence[Image.Image]:
    """The frames of one image of a batch, or of the sheet of all."""
    return sheets(images) if index is None else images[index]
