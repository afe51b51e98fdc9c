"""Sizes of a run: its images' sides and frames, where a recipe, its inputs or the model give them."""

from __future__ import annotations

from math import prod

from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.recipes.editing import proportioned
from sigmafield.recipes.framing import cut
from sigmafield.recipes.inputs import Inputs
from sigmafield.recipes.recipe import Recipe
from sigmafield.recipes.tiling import check_multiple, unit_of, unit_words


def size_of(recipe: Recipe, model: DiffusionModel, inputs: Inputs) -> tuple[int, int]:
    """(height, width) of the images: asked for, or the image's, cut to what the model needs or enlarged, or its own.

    Without an image, a model draws as many pixels as it was trained for in the proportions of the first reference.

    Raises:
        ValueError: A side that was asked for is not a multiple of what the model needs, or the image is smaller.
    """
    unit, whose = unit_of(model), ""
    if recipe.width and recipe.height:
        height, width = recipe.height, recipe.width
    elif inputs.frames:
        width, height = (enlarged(side, recipe.scale, unit) for side in inputs.frames[0].size)
        whose = "the image's "
    elif inputs.references:
        height, width = proportioned(inputs.references[0], prod(model.size), unit)
    else:
        height, width = model.size
    check_multiple(f"{whose}width", width, unit, unit_words(model))
    check_multiple(f"{whose}height", height, unit, unit_words(model))
    return height, width


def enlarged(side: int, scale: float, unit: int) -> int:
    """A side times a scale, as the nearest multiple of a unit; at a scale of 1 as the largest that it holds."""
    if scale == 1:
        return side // unit * unit or side
    return max(round(side * scale / unit), 1) * unit


def middle_of(recipe: Recipe, inputs: Inputs, size: tuple[int, int]) -> Inputs:
    """The inputs as a run of (height, width) sees them: cut where the image gives the size, else as they are."""
    return inputs if recipe.width or recipe.scale != 1 else cut(inputs, size)


def size_notes(model: DiffusionModel, given: Inputs, inputs: Inputs) -> list[str]:
    """Says that an image is cut, and why."""
    if not inputs.frames or inputs.frames[0].size == given.frames[0].size:
        return []
    (width, height), (w, h) = given.frames[0].size, inputs.frames[0].size
    why = f"sides are multiples of {unit_words(model)}"
    return [f"of the image's {width}x{height} pixels the middle {w}x{h} are drawn: {why}; a size resizes it instead"]


def frames_of(recipe: Recipe, model: DiffusionModel, inputs: Inputs) -> int:
    """Number of frames: asked for, or the image's, or the model's own.

    Raises:
        ValueError: The model cannot draw this many, or the input animation has fewer.
    """
    source, step = inputs.frames, model.latent.frame_factor
    frames = recipe.frames or (len(source) if model.latent.axes == 3 else 1) or model.frames
    if model.latent.axes != 3 and frames != 1:
        raise ValueError(f"frames must be 1, since {model.name} draws images and not videos; got {frames}")
    if (frames - 1) % step:
        low = (frames - 1) // step * step + 1
        raise ValueError(f"frames must be 1 more than a multiple of {step}; got {frames}: try {low} or {low + step}")
    if 1 < len(source) < frames:
        raise ValueError(f"frames must be at most those of {recipe.image}, which has {len(source)}; got {frames}")
    return frames
