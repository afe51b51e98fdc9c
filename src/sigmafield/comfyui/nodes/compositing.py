"""Nodes that put images onto each other, and take their transparency apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import torch
from torch import Tensor

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.nodes.images import Position, opaque
from sigmafield.comfyui.pasting import pasted
from sigmafield.comfyui.scaling import matched, scaled
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Image, Mask
from sigmafield.core.annotations import Range
from sigmafield.core.linear import filled


@node("ImageCompositeMasked", "image", version=3)
def image_composite_masked(
    destination: Image,
    source: Image,
    x: Position = 0,
    y: Position = 0,
    resize_source: bool = False,
    mask: Mask | None = None,
) -> Image:
    """Puts images onto others, where a mask is 1; they have alpha where the destination has it.

    Args:
        destination: What is changed.
        source: What is put onto it.
        x: Left edge of the source in the destination.
        y: Upper edge of the source in the destination.
        resize_source: Whether the source is resized to the size of the destination.
        mask: The mask, which is resized to the size of the source.
    """
    part = with_channels(source, destination.shape[-1]).movedim(-1, 1)
    return pasted(destination.movedim(-1, 1), part, x, y, mask, resize_source).movedim(1, -1)


def with_channels(image: Tensor, channels: int) -> Tensor:
    """Images [B, H, W, C] with as many channels: alpha is dropped, or is 1."""
    return opaque(image[..., :channels], channels)


def _soft_light(a: Tensor, b: Tensor) -> Tensor:
    g = torch.where(a <= 0.25, ((16 * a - 12) * a + 4) * a, a.clamp(min=0).sqrt())
    return torch.where(b <= 0.5, a - (1 - 2 * b) * a * (1 - a), a + (2 * b - 1) * (g - a))


BLENDS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "normal": lambda a, b: b,
    "multiply": lambda a, b: a * b,
    "screen": lambda a, b: 1 - (1 - a) * (1 - b),
    "overlay": lambda a, b: torch.where(a <= 0.5, 2 * a * b, 1 - 2 * (1 - a) * (1 - b)),
    "soft_light": _soft_light,
    "difference": lambda a, b: a - b,
}


@node("ImageBlend", "image/postprocessing", version=3)
def image_blend(
    image1: Image,
    image2: Image,
    blend_factor: Annotated[float, Range(0, 1), Input(step=0.01)] = 0.5,
    *,
    blend_mode: Literal["normal", "multiply", "screen", "overlay", "soft_light", "difference"],
) -> Image:
    """Mixes images.

        (1 − f) a + f mode(a, b), in 0 … 1

    Args:
        image1: a.
        image2: b, which gets the size of a, and alpha where a has it.
        blend_factor: f.
        blend_mode: What is mixed in.
    """
    b = with_channels(image2, image1.shape[-1]).movedim(-1, 1)
    b = filled(matched(b, image1.movedim(-1, 1), "bicubic"), len(image1), 0).movedim(1, -1)
    return ((1 - blend_factor) * image1 + blend_factor * BLENDS[blend_mode](image1, b)).clamp(0, 1)


PorterDuff = Literal[
    "ADD", "CLEAR", "DARKEN", "DST", "DST_ATOP", "DST_IN", "DST_OUT", "DST_OVER", "LIGHTEN", "MULTIPLY", "OVERLAY",
    "SCREEN", "SRC", "SRC_ATOP", "SRC_IN", "SRC_OUT", "SRC_OVER", "XOR",
]  # fmt: skip
Share = Callable[[Tensor], Tensor]


def _all(other: Tensor) -> Tensor:
    return torch.ones_like(other)


def _none(other: Tensor) -> Tensor:
    return torch.zeros_like(other)


def _in(other: Tensor) -> Tensor:
    return other


def _out(other: Tensor) -> Tensor:
    return 1 - other


SHARES: Mapping[str, tuple[Share, Share]] = {
    "ADD": (_all, _all),
    "CLEAR": (_none, _none),
    "DST": (_none, _all),
    "DST_ATOP": (_out, _in),
    "DST_IN": (_none, _in),
    "DST_OUT": (_none, _out),
    "DST_OVER": (_out, _all),
    "SRC": (_all, _none),
    "SRC_ATOP": (_in, _out),
    "SRC_IN": (_in, _none),
    "SRC_OUT": (_out, _none),
    "SRC_OVER": (_all, _out),
    "XOR": (_out, _out),
}
"""Porter and Duff's operators: what counts of source and destination, each as a function of the other's alpha."""


def _overlay(s: Tensor, d: Tensor, s_alpha: Tensor, d_alpha: Tensor) -> Tensor:
    return torch.where(2 * d < d_alpha, 2 * s * d, s_alpha * d_alpha - 2 * (d_alpha - s) * (s_alpha - d))


def _composed(mode: PorterDuff, s: Tensor, s_alpha: Tensor, d: Tensor, d_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Colour times alpha, and alpha, of a source and a destination whose colours are multiplied by alpha."""
    if mode in SHARES:
        of_source, of_destination = SHARES[mode]
        k, n = of_source(d_alpha), of_destination(s_alpha)
        return k * s + n * d, k * s_alpha + n * d_alpha
    both = s_alpha + d_alpha - s_alpha * d_alpha
    around = (1 - d_alpha) * s + (1 - s_alpha) * d
    match mode:
        case "DARKEN":
            return around + torch.minimum(s, d), both
        case "LIGHTEN":
            return around + torch.maximum(s, d), both
        case "SCREEN":
            return s + d - s * d, both
        case "OVERLAY":
            return _overlay(s, d, s_alpha, d_alpha), both
        case _:
            return s * d, s_alpha * d_alpha


@node("PorterDuffImageComposite", "mask/compositing", title="Porter-Duff Image Composite", version=3)
def porter_duff_image_composite(
    source: Image, source_alpha: Mask, destination: Image, destination_alpha: Mask, mode: PorterDuff = "DST"
) -> tuple[Image, Mask]:
    """Puts images with transparency onto others by an operator of Porter and Duff.

    There are as many as in the shortest batch. T. Porter and T. Duff, "Compositing digital images", 1984.

    Args:
        source: The images that are put there, which get the size of the destination.
        source_alpha: Where they are transparent.
        destination: The images below.
        destination_alpha: Where they are transparent.
        mode: The operator.
    """
    if source.shape[-1] != destination.shape[-1]:
        raise ValueError(
            "PorterDuffImageComposite needs source and destination to have as many channels; "
            f"got {source.shape[-1]} and {destination.shape[-1]}"
        )
    d = destination.movedim(-1, 1)
    s, s_alpha, d_alpha = (
        matched(each, d, "bicubic")
        for each in (source.movedim(-1, 1), _channel(1 - source_alpha), _channel(1 - destination_alpha))
    )
    n = min(map(len, (s, s_alpha, d, d_alpha)))
    s, s_alpha, d, d_alpha = (each[:n] for each in (s, s_alpha, d, d_alpha))
    made, alpha = _composed(mode, s * s_alpha, s_alpha, d * d_alpha, d_alpha)
    made, alpha = (made.clamp(0, 1), alpha.clamp(0, 1)) if mode == "ADD" else (made, alpha)
    made = torch.where(alpha > 1e-5, made / alpha.clamp(min=1e-5), made).clamp(0, 1)
    return made.movedim(1, -1), 1 - alpha[:, 0]


def _channel(mask: Tensor) -> Tensor:
    return mask.reshape(-1, 1, *mask.shape[-2:])


@node("SplitImageWithAlpha", "mask/compositing", title="Split Image with Alpha", version=3)
def split_image_with_alpha(image: Image) -> tuple[Image, Mask]:
    """Takes the transparency out of images.

    Args:
        image: The images.
    """
    return image[..., :3], 1 - image[..., 3] if image.shape[-1] > 3 else torch.zeros(image.shape[:3])


@node("JoinImageWithAlpha", "mask/compositing", title="Join Image with Alpha", version=3)
def join_image_with_alpha(image: Image, alpha: Mask) -> Image:
    """Puts transparency into images; of batches there are as many as in the shorter one.

    Args:
        image: The images.
        alpha: What is transparent; it is resized to the size of the images.
    """
    m = scaled(alpha.reshape(-1, 1, *alpha.shape[-2:]), image.shape[2], image.shape[1], "bilinear").movedim(1, -1)
    count = min(len(image), len(m))
    return torch.cat([image[:count, ..., :3], 1 - m[:count].to(image)], -1)
