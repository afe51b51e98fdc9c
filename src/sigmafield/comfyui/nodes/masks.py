"""Nodes that make and change masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.nodes.images import Position, Side
from sigmafield.comfyui.pasting import feathered, overlap
from sigmafield.comfyui.scaling import matched
from sigmafield.comfyui.sockets import Autogrow, Input
from sigmafield.comfyui.values import Image, Mask
from sigmafield.core.annotations import Range
from sigmafield.core.linear import filled

Share = Annotated[float, Range(0, 1), Input(step=0.01)]


def stacked(mask: Tensor) -> Tensor:
    """Masks [B, H, W] from masks with any leading axes."""
    return mask.reshape(-1, *mask.shape[-2:])


@node("MaskToImage", "mask", title="Convert Mask to Image", version=3)
def mask_to_image(mask: Mask) -> Image:
    """Makes grey images of masks.

    Args:
        mask: The masks.
    """
    return stacked(mask)[..., None].repeat(1, 1, 1, 3)


@node("ImageToMask", "mask", title="Convert Image to Mask", version=3)
def image_to_mask(image: Image, channel: Literal["red", "green", "blue", "alpha"]) -> Mask:
    """Takes a channel of images as a mask.

    Args:
        image: The images.
        channel: The channel.
    """
    k = ("red", "green", "blue", "alpha").index(channel)
    if k >= image.shape[-1]:
        raise ValueError(f"ImageToMask needs images that have {channel}; got {image.shape[-1]} channels")
    return image[..., k]


@node("ImageColorToMask", "mask", version=3)
def image_color_to_mask(
    image: Image, color: Annotated[int, Range(0, 0xFFFFFF), Input(step=1, display="number")] = 0
) -> Mask:
    """Masks that are 1 where images have one colour, in 8 bits.

    Args:
        image: The images.
        color: The colour: 65536 R + 256 G + B, each of 255.
    """
    levels = (image[..., :3].clamp(0, 1) * 255).round().long()
    return ((levels * torch.tensor([65536, 256, 1])).sum(-1) == color).float()


@node("SolidMask", "mask", version=3)
def solid_mask(value: Share = 1.0, width: Side = 512, height: Side = 512) -> Mask:
    """A mask of one value.

    Args:
        value: The value.
        width: The width.
        height: The height.
    """
    return torch.full((1, height, width), value)


@node("InvertMask", "mask", version=3)
def invert_mask(mask: Mask) -> Mask:
    """Exchanges what is drawn and what is kept.

    Args:
        mask: The masks.
    """
    return 1.0 - mask


@node("BatchMasksNode", "mask", title="Batch Masks", version=3)
def batch_masks(masks: Annotated[Mapping[str, Tensor], Autogrow(Mask, "mask", "mask", min=2, max=50)]) -> Mask:
    """Joins batches of masks; all get the size of the first.

    Args:
        masks: The batches.
    """
    if not masks:
        raise ValueError("BatchMasksNode needs at least one batch of masks")
    batches = [stacked(each)[:, None] for each in masks.values()]
    return torch.cat([matched(each, batches[0]) for each in batches])[:, 0]


@node("CropMask", "mask", version=3)
def crop_mask(mask: Mask, x: Position = 0, y: Position = 0, width: Side = 512, height: Side = 512) -> Mask:
    """Cuts a part out of masks.

    Args:
        mask: The masks.
        x: Its left edge.
        y: Its upper edge.
        width: Its width.
        height: Its height.
    """
    return stacked(mask)[:, y : y + height, x : x + width]


@node("MaskComposite", "mask", version=3)
def mask_composite(
    destination: Mask,
    source: Mask,
    x: Position = 0,
    y: Position = 0,
    *,
    operation: Literal["multiply", "add", "subtract", "and", "or", "xor"],
) -> Mask:
    """Combines a mask with a part of another.

    Args:
        destination: The masks that are changed.
        source: The masks that they are combined with.
        x: Left edge of the source in the destination.
        y: Upper edge of the source in the destination.
        operation: What is done with the two values; the logical ones round them to 0 or 1.
    """
    out = stacked(destination).clone()
    part = filled(stacked(source), len(out), 0)
    rows, columns, own_rows, own_columns = overlap(out.shape[-2:], part.shape[-2:], x, y)
    a, b = out[:, rows, columns], part[:, own_rows, own_columns].to(out)
    match operation:
        case "multiply":
            made = a * b
        case "add":
            made = a + b
        case "subtract":
            made = a - b
        case "and":
            made = (a.round().bool() & b.round().bool()).to(out)
        case "or":
            made = (a.round().bool() | b.round().bool()).to(out)
        case "xor":
            made = (a.round().bool() ^ b.round().bool()).to(out)
    out[:, rows, columns] = made
    return out.clamp(0, 1)


@node("FeatherMask", "mask", version=3)
def feather_mask(mask: Mask, left: Position = 0, top: Position = 0, right: Position = 0, bottom: Position = 0) -> Mask:
    """Lets masks rise from their edges: over n pixels by the factors 1/n, 2/n, … 1.

    Args:
        mask: The masks.
        left: n at the left edge.
        top: n at the upper edge.
        right: n at the right edge.
        bottom: n at the lower edge.
    """
    return stacked(mask) * feathered(mask.shape[-2:], left, top, right, bottom).to(mask)


@node("GrowMask", "mask", title="Grow Mask", version=3)
def grow_mask(
    mask: Mask, expand: Annotated[int, Range(-16384, 16384), Input(step=1)] = 0, tapered_corners: bool = True
) -> Mask:
    """Widens or narrows masks, which are mirrored at their borders.

    Args:
        mask: The masks.
        expand: Pixels by which they are wider; negative: narrower.
        tapered_corners: Whether each pixel is taken from the 4 next to it, which cuts corners, or from 8.
    """
    from scipy import ndimage  # slow to import

    corner = 0 if tapered_corners else 1
    shape = np.array([[corner, 1, corner], [1, 1, 1], [corner, 1, corner]])
    change = ndimage.grey_erosion if expand < 0 else ndimage.grey_dilation
    made: list[Tensor] = []
    for each in stacked(mask).cpu().numpy():
        for _ in range(abs(expand)):
            each = change(each, footprint=shape)
        made.append(torch.from_numpy(each))
    return torch.stack(made)


@node("ThresholdMask", "mask", version=3)
def threshold_mask(mask: Mask, value: Share = 0.5) -> Mask:
    """Masks that are 1 above a value, and 0 elsewhere.

    Args:
        mask: The masks.
        value: The value.
    """
    return (mask > value).float()
