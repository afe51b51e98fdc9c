"""Nodes that resize images and masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.scaling import scaled
from sigmafield.comfyui.sockets import Dynamic, Input, Match, Socket
from sigmafield.comfyui.values import Image
from sigmafield.core.annotations import Range

Crop = Literal["disabled", "center"]
Method = Literal["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
Pixels = Annotated[int, Range(0, 16384), Input(step=1)]


@dataclass(frozen=True, kw_only=True)
class ByFactor:
    """Both sides are multiplied."""

    multiplier: Annotated[float, Range(0.01, 8), Input(step=0.01)] = 1.0


@dataclass(frozen=True, kw_only=True)
class ToSize:
    """Both sides are given; 0 keeps the ratio of the sides."""

    width: Pixels = 512
    height: Pixels = 512
    crop: Crop = "center"


@dataclass(frozen=True, kw_only=True)
class LongerSide:
    """The longer side is given."""

    longer_size: Pixels = 512


@dataclass(frozen=True, kw_only=True)
class ShorterSide:
    """The shorter side is given."""

    shorter_size: Pixels = 512


@dataclass(frozen=True, kw_only=True)
class ToWidth:
    """The width is given."""

    width: Pixels = 512


@dataclass(frozen=True, kw_only=True)
class ToHeight:
    """The height is given."""

    height: Pixels = 512


@dataclass(frozen=True, kw_only=True)
class ToArea:
    """The number of pixels is given, in units of 1024²."""

    megapixels: Annotated[float, Range(0.01, 16), Input(step=0.01)] = 1.0


@dataclass(frozen=True, kw_only=True)
class ToMatch:
    """The sides of another image or mask."""

    match: Annotated[Tensor, Socket("IMAGE,MASK")]
    crop: Crop = "center"


Sizing = ByFactor | ToSize | LongerSide | ShorterSide | ToWidth | ToHeight | ToArea | ToMatch
SIZINGS: dict[str, type] = {
    "scale by multiplier": ByFactor,
    "scale dimensions": ToSize,
    "scale longer dimension": LongerSide,
    "scale shorter dimension": ShorterSide,
    "scale width": ToWidth,
    "scale height": ToHeight,
    "scale total pixels": ToArea,
    "match size": ToMatch,
}


@node("ResizeImageMaskNode", "transform", title="Resize Image/Mask", outputs=("resized",), version=3)
def resize_image_mask(
    input: Annotated[Tensor, Match("input_type", "IMAGE,MASK")],
    resize_type: Annotated[Sizing, Dynamic(SIZINGS)],
    scale_method: Method = "area",
) -> Annotated[Tensor, Match("input_type")]:
    """Resizes images or masks.

    Args:
        input: Images [B, H, W, C] or masks [B, H, W].
        resize_type: What the new size follows from.
        scale_method: The interpolation.
    """
    width, height = new_size(resize_type, *_size(input))
    crop = resize_type.crop if isinstance(resize_type, (ToSize, ToMatch)) else "disabled"
    if input.ndim < 4:
        return scaled(input.reshape(-1, 1, *input.shape[-2:]), width, height, scale_method, crop)[:, 0]
    return _resized(input, width, height, scale_method, crop)


def _size(x: Tensor) -> tuple[int, int]:
    """(width, height) of images [B, H, W, C], or of masks [B, H, W] or [H, W]."""
    return (x.shape[2], x.shape[1]) if x.ndim == 4 else (x.shape[-1], x.shape[-2])


def new_size(sizing: Sizing, width: int, height: int) -> tuple[int, int]:
    """(width, height) that a sizing gives an image of another size; sides that follow from others are at least 1."""
    match sizing:
        case ByFactor(multiplier=k):
            return max(1, round(width * k)), max(1, round(height * k))
        case ToMatch(match=other):
            return _size(other)
        case ToArea(megapixels=area):
            return by_area(area, 1, width, height)
        case ToWidth(width=side):
            return new_size(ToSize(width=side, height=0), width, height)
        case ToHeight(height=side):
            return new_size(ToSize(width=0, height=side), width, height)
        case LongerSide(longer_size=side):
            sizing = ToSize(width=side, height=0) if width >= height else ToSize(width=0, height=side)
            return new_size(sizing, width, height)
        case ShorterSide(shorter_size=side):
            sizing = ToSize(width=side, height=0) if width <= height else ToSize(width=0, height=side)
            return new_size(sizing, width, height)
        case ToSize(width=w, height=h):
            if not w and not h:
                return width, height
            return w or max(1, round(width * h / height)), h or max(1, round(height * w / width))


def by_area(megapixels: float, step: int, width: int, height: int) -> tuple[int, int]:
    """(width, height) in multiples of a step, of about megapixels · 1024² pixels and with the same ratio of sides."""
    k = (megapixels * 1024 * 1024 / (width * height)) ** 0.5
    return max(1, round(width * k / step)) * step, max(1, round(height * k / step)) * step


def _resized(image: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    """Images [B, H, W, C] of another size."""
    return scaled(image.movedim(-1, 1), width, height, method, crop).movedim(1, -1)


@node("ImageScale", "image/upscaling", title="Upscale Image")
def image_scale(
    image: Image, upscale_method: Method, width: Pixels = 512, height: Pixels = 512, crop: Crop = "disabled"
) -> Image:
    """Resizes images.

    Args:
        image: The images.
        upscale_method: The interpolation.
        width: The new width; 0 keeps the ratio of the sides.
        height: The new height likewise; if both are 0, the size stays.
        crop: "center" cuts to the new ratio of the sides first.
    """
    width, height = new_size(ToSize(width=width, height=height), *_size(image))
    return _resized(image, width, height, upscale_method, crop)


@node("ImageScaleBy", "image/upscaling", title="Upscale Image By")
def image_scale_by(
    image: Image, upscale_method: Method, scale_by: Annotated[float, Range(0.01, 8), Input(step=0.01)] = 1.0
) -> Image:
    """Resizes images by a factor.

    Args:
        image: The images.
        upscale_method: The interpolation.
        scale_by: The factor.
    """
    width, height = new_size(ByFactor(multiplier=scale_by), *_size(image))
    return _resized(image, width, height, upscale_method)


@node("ImageScaleToTotalPixels", "image/upscaling", version=3)
def image_scale_to_total_pixels(
    image: Image,
    upscale_method: Method,
    megapixels: Annotated[float, Range(0.01, 16), Input(step=0.01)] = 1.0,
    resolution_steps: Annotated[int, Range(1, 256)] = 1,
) -> Image:
    """Resizes images to a number of pixels.

    Args:
        image: The images.
        upscale_method: The interpolation.
        megapixels: The number, in units of 1024².
        resolution_steps: What the sides are multiples of.
    """
    width, height = by_area(megapixels, resolution_steps, *_size(image))
    return _resized(image, width, height, upscale_method)


Listed = Literal["area", "lanczos", "bilinear", "nearest-exact", "bicubic"]
LISTED = ("area", "lanczos", "bilinear", "nearest-exact", "bilinear", "bicubic")
"""The options of ImageScaleToMaxDimension, one of which is there twice in ComfyUI."""


@node("ImageScaleToMaxDimension", "image/upscaling", version=3)
def image_scale_to_max_dimension(
    image: Image, upscale_method: Annotated[Listed, Input(more=(("options", LISTED),))], largest_size: Pixels = 512
) -> Image:
    """Resizes images to a longer side.

    Args:
        image: The images.
        upscale_method: The interpolation.
        largest_size: The longer side.
    """
    width, height = new_size(LongerSide(longer_size=largest_size), *_size(image))
    return _resized(image, width, height, upscale_method)


NARROW = ((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104))
KONTEXT = (*NARROW, (1024, 1024), *((height, width) for width, height in reversed(NARROW)))
"""Sizes that Flux Kontext was trained on, as (width, height), narrow ones first."""


@node("FluxKontextImageScale", "advanced/conditioning/flux", version=3)
def flux_kontext_image_scale(image: Image) -> Image:
    """Resizes images to the size for Flux Kontext that has the nearest ratio of sides.

    Args:
        image: The images.
    """
    ratio = image.shape[2] / image.shape[1]
    width, height = min(KONTEXT, key=lambda size: abs(ratio - size[0] / size[1]))
    return _resized(image, width, height, "lanczos", "center")


@node("ResizeAndPadImage", "image/transform", version=3)
def resize_and_pad_image(
    image: Image,
    target_width: Annotated[int, Range(1, 16384), Input(step=1)] = 512,
    target_height: Annotated[int, Range(1, 16384), Input(step=1)] = 512,
    *,
    padding_color: Literal["white", "black"],
    interpolation: Literal["area", "bicubic", "nearest-exact", "bilinear", "lanczos"],
) -> Image:
    """Resizes images to fit into a size, and fills what is left of it.

    Args:
        image: The images.
        target_width: The width.
        target_height: The height.
        padding_color: The colour around the images.
        interpolation: The interpolation.
    """
    old_width, old_height = _size(image)
    k = min(target_width / old_width, target_height / old_height)
    width, height = max(1, int(old_width * k)), max(1, int(old_height * k))
    left, top = (target_width - width) // 2, (target_height - height) // 2
    colour = 1.0 if padding_color == "white" else 0.0
    out = torch.full((len(image), target_height, target_width, image.shape[-1]), colour)
    out[:, top : top + height, left : left + width] = _resized(image, width, height, interpolation)
    return out
