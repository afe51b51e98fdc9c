"""The frame of a run: the input image padded or cut, and its mask faded out, together with what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from sigmafield.core.resize import resize_mask
from sigmafield.recipes.image_io import resized, to_rgb
from sigmafield.recipes.inputs import Inputs
from sigmafield.recipes.recipe import Recipe

Pad = tuple[int, int, int, int]
"""Pixels to add: (left, top, right, bottom)."""

FEATHER_SHARE = 8
"""With `pad`, the shorter side divided by this is how far the mask fades into the image by default."""


def framed(recipe: Recipe, inputs: Inputs) -> Inputs:
    """The inputs with the recipe's `pad` and `mask_feather`, and their frames in RGB.

    What `pad` adds is drawn: mask and denoise map are 1 there. Control images belong to the whole output and stay.

    Args:
        recipe: `pad` and `mask_feather`.
        inputs: What the recipe's files hold.
    """
    pad, feather = recipe.pad, recipe.mask_feather
    assert not isinstance(pad, str)  # a recipe that is made keeps numbers
    if not inputs.frames:
        return inputs
    if any(frame.mode != "RGB" for frame in inputs.frames):  # inputs that were not read from files
        inputs = replace(inputs, frames=[to_rgb(frame) for frame in inputs.frames])
    if not (pad or feather):
        return inputs
    width, height = inputs.frames[0].size
    masks = (inputs.mask, inputs.denoise_map)
    mask, levels = (None if each is None else resize_mask(each, (height, width)) for each in masks)
    frames = inputs.frames
    if pad:
        mask = torch.zeros(1, height, width) if mask is None else mask
        mask, levels = (None if each is None else F.pad(each, _sides(pad), value=1.0) for each in (mask, levels))
        frames = [padded(frame, pad) for frame in frames]
        feather = min(width, height) // FEATHER_SHARE if feather is None else feather
    mask = None if mask is None else feathered(mask, feather or 0)
    return replace(inputs, frames=frames, mask=mask, denoise_map=levels)


def padded(image: Image.Image, pad: Pad) -> Image.Image:
    """An RGB image with its mirror image around it, blurred, as what is drawn there begins from.

    The blur keeps the colours near the edge and no detail that would be drawn twice.
    """
    left, top, right, bottom = pad
    pixels = np.pad(np.asarray(image), ((top, bottom), (left, right), (0, 0)), mode="symmetric")
    around = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(max(pad) / 4))
    around.paste(image, (left, top))
    return around


def feathered(mask: Tensor, feather: int) -> Tensor:
    """A mask that fades out beyond its edge.

        m' = max(m, 1 − d / (f + 1)),   d = pixels to the nearest position with m ≥ ½

    Args:
        mask: [1, H, W] in 0 … 1.
        feather: f, pixels.
    """
    edge = mask[0] < 0.5
    if not feather or bool(edge.all()):
        return mask
    from scipy.ndimage import distance_transform_edt  # slow to import

    away = torch.from_numpy(distance_transform_edt(edge.numpy())).to(mask)
    return torch.maximum(mask, (1 - away / (feather + 1)).clamp(min=0)[None])


def cut(inputs: Inputs, size: tuple[int, int]) -> Inputs:
    """The inputs without what is outside the middle (height, width) of the image.

    Masks, denoise map and control images of the image's own size are cut with it; other masks and maps are resized to
    it first, other control images stay.
    """
    if not inputs.frames or inputs.frames[0].size == (size[1], size[0]):
        return inputs
    width, height = inputs.frames[0].size
    top, left = corner_of((height, width), size)
    box = (left, top, left + size[1], top + size[0])

    def middle(each: Tensor) -> Tensor:
        return each[..., top : top + size[0], left : left + size[1]]

    masks = (inputs.mask, inputs.denoise_map)
    mask, levels = (None if each is None else middle(resize_mask(each, (height, width))) for each in masks)
    return replace(
        inputs,
        frames=[resized(frame, (height, width)).crop(box) for frame in inputs.frames],
        mask=mask,
        denoise_map=levels,
        hints=[middle(hint) if hint.shape[-2:] == (height, width) else hint for hint in inputs.hints],
    )


def corner_of(whole: Sequence[int], part: Sequence[int]) -> tuple[int, int]:
    """(top, left) of a part of (height, width) in the middle of a whole."""
    return (whole[0] - part[0]) // 2, (whole[1] - part[1]) // 2


def _sides(pad: Pad) -> list[int]:
    """Padding as torch takes it: of the last axis, then of the one before."""
    left, top, right, bottom = pad
    return [left, right, top, bottom]
