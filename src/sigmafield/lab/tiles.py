"""Tiles drawn over an image, with the denoise strength of each: as pixels or as SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from sigmafield.core.geometry import Box
from sigmafield.recipes.build import Job, strengths_of
from sigmafield.recipes.image_io import resized
from sigmafield.recipes.inputs import Inputs
from sigmafield.recipes.options import AUTO
from sigmafield.recipes.output import save_image
from sigmafield.recipes.sizes import size_of
from sigmafield.recipes.tiling import cover_of, leaves_of
from sigmafield.runs.files import write_whole
from sigmafield.spatial.sigma_field import strength_of


def colours(values: Sequence[float]) -> list[tuple[int, int, int]]:
    """From blue, the least value, to red, the largest: (⌊255 q⌋, 0, ⌊255 (1 − q)⌋)."""
    low, high = min(values), max(values)
    shares = [(value - low) / (high - low + 1e-8) for value in values]
    return [(int(255 * q), 0, int(255 * (1 - q))) for q in shares]


def draw_tiles(
    image: Image.Image, boxes: Sequence[Box], values: Sequence[float], factor: int = 1, line: int = 2
) -> Image.Image:
    """The image with a frame around each box and its value in the corner.

    factor: pixels of the image for one place of the boxes; line: width of the frames in pixels.
    Raises ValueError unless there is a value for each box.
    """
    _check(boxes, values)
    out = image.convert("RGB")
    pen = ImageDraw.Draw(out)
    for box, value, colour in zip(boxes, values, colours(values)):
        y, x, height, width = (side * factor for side in box)
        pen.rectangle((x, y, x + width - 1, y + height - 1), outline=colour, width=line)
        if min(height, width) >= 24:
            pen.text((x + line + 2, y + line + 1), f"{value:.2g}", fill=colour)
    return out


def tiles_svg(
    image: Image.Image, boxes: Sequence[Box], values: Sequence[float], factor: int = 1, line: float = 2.0
) -> str:
    """The same as SVG: sharp at any size, with the value as a tooltip of each frame; the image is part of it."""
    _check(boxes, values)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    width, height = image.size
    rows = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'<image width="{width}" height="{height}" href="data:image/png;base64,{_text(buffer)}"/>',
    ]
    for box, value, (red, green, blue) in zip(boxes, values, colours(values)):
        y, x, h, w = (side * factor for side in box)
        rows.append(
            f'<rect x="{x + line / 2:g}" y="{y + line / 2:g}" width="{w - line:g}" height="{h - line:g}" '
            f'fill="none" pointer-events="all" stroke="rgb({red},{green},{blue})" stroke-width="{line:g}">'
            f"<title>denoise {value:.3g}</title></rect>"
        )
    return "\n".join([*rows, "</svg>"]) + "\n"


def tiles_of(job: Job, inputs: Inputs) -> tuple[Image.Image, list[Box], list[float]]:
    """What a job begins from, as an image, its boxes in pixels and their denoise strengths, for `draw_tiles`.

    With the denoise map "auto" the boxes are the leaves of its quadtree; else the cores of the network's tiles, with
    the mean of the map there.

    Args:
        job: An opened job.
        inputs: What its recipe's files hold.

    Raises:
        ValueError: The job has no image or no tiles.
    """
    recipe, model = job.recipe, job.pipe.model
    if not inputs.frames or recipe.tiling is None:
        raise ValueError("tiles to draw need a recipe with an image and a tiling")
    factor, size = model.latent.factor, size_of(recipe, model, inputs)
    image = resized(inputs.frames[0], size)
    if recipe.denoise_map == AUTO:
        low, high = recipe.min_denoise, recipe.denoise
        leaves, strengths = leaves_of(recipe.detail, recipe.tiling, model, image, low, high)
        return image, list(leaves), strengths
    height, width = (side // factor for side in size)
    cores = [tile.core for tile in cover_of(recipe.tiling, model)(height, width)]
    strengths = strengths_of(recipe, model, inputs, size)
    shares = torch.ones(height, width) if strengths is None else strength_of(strengths, (height, width))[0, 0]
    boxes = [Box(*(side * factor for side in core)) for core in cores]
    return image, boxes, [recipe.denoise * float(shares[core.index].mean()) for core in cores]


def write_tiles(job: Job, inputs: Inputs, path: Path) -> None:
    """The tiles of a job with their strengths, as a PNG or an SVG file, by the path's ending."""
    image, boxes, values = tiles_of(job, inputs)
    line = min(max(image.width // 256, 1), 4)
    if path.suffix.lower() == ".svg":
        write_whole(path, tiles_svg(image, boxes, values, line=float(line)).encode())
    else:
        save_image(draw_tiles(image, boxes, values, line=line), path)


def _text(buffer: io.BytesIO) -> str:
    return base64.b64encode(buffer.getvalue()).decode()


def _check(boxes: Sequence[Box], values: Sequence[float]) -> None:
    if len(boxes) != len(values) or not boxes:
        raise ValueError(f"boxes to draw need a value each; got {len(boxes)} boxes and {len(values)} values")
