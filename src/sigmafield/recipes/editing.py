"""The images that an editing network is shown: brought to its size, seen by the text encoder, encoded by the VAE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt

import torch.nn.functional as F
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.references import with_references
from sigmafield.recipes.tiling import unit_of


@dataclass(frozen=True)
class Shown:
    """Images that an editing network is shown.

    Args:
        seen: What the text encoder sees, each [1, 3, H, W] in [0, 1].
        latents: What the network is shown, each [1, C, h, w] in its scale.
    """

    seen: Sequence[Tensor]
    latents: Sequence[Tensor]


def shown_of(pipe: Pipeline, images: Sequence[Tensor], size: tuple[int, int]) -> Shown | None:
    """Resizes and encodes images for an editing network: to the pixels of what it draws, at most those of its training.

    Args:
        pipe: The model.
        images: Each [1, 3, H, W] in [0, 1].
        size: (height, width) in pixels of what is drawn.

    Returns:
        The images; None if `images` is empty.

    Raises:
        ValueError: The model cannot be shown them.
    """
    if not images:
        return None
    model, text = pipe.model, pipe.text
    if not model.references:
        raise model.no_references()
    if model.latent.axes != 2:
        raise ValueError(
            f"references: {model.name} draws videos, and is shown images in workflows only, "
            "by WanFunControlToVideo and Wan22FunControlToVideo"
        )
    if text.sees is not None and not text.numbered and len(images) > 1:
        raise ValueError(
            f"references must be one image for {model.name}, which was trained to edit one; got {len(images)}"
        )
    pixels = min(prod(size), prod(model.size))
    large = [sized(image, proportioned(image, pixels, unit_of(model))) for image in images]
    seen = [sized(image, proportioned(image, text.seen_pixels, 1)) for image in images] if text.seen_pixels else large
    return Shown([] if text.sees is None else seen, [pipe.encode(image.to(pipe.device)) for image in large])


def encoded(pipe: Pipeline, shown: Shown, prompt: str, size: tuple[int, int], clip_skip: int | None) -> Cond:
    """A prompt encoded with the images that it speaks of.

    Args:
        pipe: The model.
        shown: The images.
        prompt: What to do with them.
        size: (height, width) in pixels of what is drawn.
        clip_skip: As for `TextEncoder.encode`.
    """
    text = pipe.text
    cond = text.encode_edit([prompt], shown.seen) if shown.seen else text.encode([prompt], size, clip_skip)
    return with_references(cond, shown.latents)


def proportioned(image: Tensor, pixels: int, unit: int) -> tuple[int, int]:
    """(height, width) in an image's proportions.

    Args:
        image: [B, C, H, W].
        pixels: Height times width, approximately.
        unit: What height and width are multiples of.

    Raises:
        ValueError: The image is so narrow that its shorter side would be 0.
    """
    height, width = image.shape[-2:]
    ratio = sqrt(pixels / (height * width))
    rows, columns = round(height * ratio / unit), round(width * ratio / unit)
    if min(rows, columns) < 1:
        raise ValueError(
            f"a reference of {width}x{height} pixels is too narrow: of {pixels} pixels in these proportions, the "
            f"shorter side has less than {unit}; cut it first"
        )
    return rows * unit, columns * unit


def sized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image [1, 3, H, W] at (height, width), by an antialiased bicubic filter."""
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
