"""Nodes that make images, and batch, cut, turn and join them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmafield.comfyui.context import Remarked
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.nodes.latents import Flip, Rotation, rotated
from sigmafield.comfyui.scaling import matched, scaled
from sigmafield.comfyui.sockets import Autogrow, Input, Socket
from sigmafield.comfyui.values import Image, Mask, UniqueId
from sigmafield.comfyui.widgets import Batch
from sigmafield.core.annotations import Range

Side = Annotated[int, Range(1, 16384), Input(step=1)]
Position = Annotated[int, Range(0, 16384), Input(step=1)]
Border = Annotated[int, Range(0, 16384), Input(step=8)]


@node("ImageInvert", "image", title="Invert Image")
def image_invert(image: Image) -> Image:
    """Negates the colours.

    Args:
        image: The images.
    """
    return 1.0 - image


@node("EmptyImage", "image")
def empty_image(
    width: Side = 512,
    height: Side = 512,
    batch_size: Batch = 1,
    color: Annotated[int, Range(0, 0xFFFFFF), Input(step=1, display="color")] = 0,
) -> Image:
    """Images of one colour.

    Args:
        width: Their width.
        height: Their height.
        batch_size: Their number.
        color: The colour: 65536 R + 256 G + B, each of 255.
    """
    rgb = torch.tensor([color >> 16 & 255, color >> 8 & 255, color & 255]) / 255
    return rgb.expand(batch_size, height, width, 3).clone()


@node("GetImageSize", "image", title="Get Image Size", outputs=("width", "height", "batch_size"), version=3)
def get_image_size(image: Image, unique_id: UniqueId = "") -> Remarked[tuple[int, int, int]]:
    """The size of images and their number, which the node shows as well.

    Args:
        image: The images.
        unique_id: The node's id.
    """
    batch, height, width = image.shape[:3]
    return Remarked((width, height, batch), f"width: {width}, height: {height}\n batch size: {batch}")


def opaque(image: Tensor, channels: int) -> Tensor:
    """Images [B, H, W, C] with as many channels, the further ones 1."""
    return F.pad(image, (0, channels - image.shape[-1]), value=1.0)


def _like(image: Tensor, first: Tensor) -> Tensor:
    """Images of the size of others."""
    return matched(image.movedim(-1, 1), first.movedim(-1, 1)).movedim(1, -1)


def _joined(batches: Sequence[Tensor]) -> Tensor:
    channels = max(each.shape[-1] for each in batches)
    return torch.cat([_like(opaque(each, channels), batches[0]) for each in batches])


@node("ImageBatch", "image", title="Batch Images", deprecated=True)
def image_batch(image1: Image, image2: Image) -> Image:
    """Joins two batches of images; the second gets the size of the first, and alpha where either has it.

    Args:
        image1: The first batch.
        image2: The second batch.
    """
    return _joined([image1, image2])


@node("BatchImagesNode", "image", title="Batch Images", version=3)
def batch_images(images: Annotated[Mapping[str, Tensor], Autogrow(Image, "image", "image", min=2, max=50)]) -> Image:
    """Joins batches of images; all get the size of the first, and alpha where any of them has it.

    Args:
        images: The batches.
    """
    if not images:
        raise ValueError("BatchImagesNode needs at least one batch of images")
    return _joined(list(images.values()))


@node("RepeatImageBatch", "image/batch", version=3)
def repeat_image_batch(image: Image, amount: Batch = 1) -> Image:
    """Repeats a batch of images.

    Args:
        image: The batch.
        amount: How often it is there afterwards.
    """
    return image.repeat(amount, 1, 1, 1)


@node("ImageFromBatch", "image/batch", version=3)
def image_from_batch(
    image: Image,
    batch_index: Annotated[int, Range(0, 4095)] = 0,
    length: Batch = 1,
) -> Image:
    """Takes some of a batch of images.

    Args:
        image: The batch.
        batch_index: The first that is taken.
        length: Number of those that are taken.
    """
    start = min(len(image) - 1, batch_index)
    return image[start : start + length].clone()


@node("RebatchImages", "image/batch", title="Rebatch Images", version=3, takes_lists=True)
def rebatch_images(
    images: Sequence[Image], batch_size: Sequence[Batch] = (1,)
) -> Annotated[list[Tensor], Socket("IMAGE", listed=True)]:
    """Makes batches of another size of lists of images.

    Args:
        images: The images.
        batch_size: Number of images in a batch; all images of a batch must have one size.
    """
    flat = [each for batch in images for each in batch]
    return [torch.stack(flat[k : k + batch_size[0]]) for k in range(0, len(flat), batch_size[0])]


@node("ImagePadForOutpaint", "image", title="Pad Image for Outpainting")
def image_pad_for_outpaint(
    image: Image, left: Border = 0, top: Border = 0, right: Border = 0, bottom: Border = 0, feathering: Position = 40
) -> tuple[Image, Mask]:
    """Adds grey borders to images, with a mask that says what to draw.

        m = ((f − d)/f)² inside of the images at the distance d < f from a new border, 1 outside

    Args:
        image: The images.
        left: Pixels that are added at the left.
        top: Pixels that are added at the top.
        right: Pixels that are added at the right.
        bottom: Pixels that are added at the bottom.
        feathering: f in pixels; ignored unless 2 f is less than both sides.
    """
    height, width = image.shape[1:3]
    grown = F.pad(image, (0, 0, left, right, top, bottom), value=0.5)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    ends = ((left, columns), (top, rows), (right, width - columns), (bottom, height - rows))
    inside = torch.zeros(height, width)
    if 0 < 2 * feathering < min(height, width):
        for padded, distance in ends:
            if padded:
                share = ((feathering - distance) / feathering).clamp(min=0)
                inside = torch.maximum(inside, share**2)
    return grown, F.pad(inside, (left, right, top, bottom), value=1.0)[None]


@node("ImageCrop", "image/transform", title="Image Crop", version=3)
def image_crop(image: Image, width: Side = 512, height: Side = 512, x: Position = 0, y: Position = 0) -> Image:
    """Cuts a part out of images.

    Args:
        image: The images.
        width: Its width.
        height: Its height.
        x: Its left edge.
        y: Its upper edge.
    """
    left, top = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
    return image[:, top : top + height, left : left + width]


@node("ImageRotate", "image/transform", version=3)
def image_rotate(image: Image, rotation: Rotation) -> Image:
    """Turns images clockwise.

    Args:
        image: The images.
        rotation: By how much.
    """
    return rotated(image, rotation, (1, 2))


@node("ImageFlip", "image/transform", version=3)
def image_flip(image: Image, flip_method: Flip) -> Image:
    """Mirrors images.

    Args:
        image: The images.
        flip_method: Whether top and bottom or left and right change places.
    """
    return image.flip(1 if flip_method.startswith("x") else 2)


COLOURS = {"white": (1, 1, 1), "black": (0, 0, 0), "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}


@node("ImageStitch", "image/transform", title="Image Stitch", version=3)
def image_stitch(
    image1: Image,
    direction: Literal["right", "down", "left", "up"] = "right",
    match_image_size: bool = True,
    spacing_width: Annotated[int, Range(0, 1024), Input(step=2)] = 0,
    spacing_color: Literal["white", "black", "red", "green", "blue"] = "white",
    image2: Image | None = None,
) -> Image:
    """Puts two images next to each other; of batches the shorter one repeats its last image.

    Args:
        image1: The first images.
        direction: Where the second is put.
        match_image_size: Whether the second is resized to fit; otherwise the smaller one gets a black border.
        spacing_width: Pixels between the two, rounded up to an even number.
        spacing_color: The colour between the two.
        image2: The second images.
    """
    if image2 is None:
        return image1
    count, channels = max(len(image1), len(image2)), max(image1.shape[-1], image2.shape[-1])
    first, second = (opaque(torch.cat([x, x[-1:].repeat(count - len(x), 1, 1, 1)]), channels) for x in (image1, image2))
    across = direction in ("right", "left")
    side, other = (1, 2) if across else (2, 1)
    if match_image_size:
        length = max(1, int(second.shape[other] * first.shape[side] / second.shape[side]))
        width, height = (length, first.shape[1]) if across else (first.shape[2], length)
        second = scaled(second.movedim(-1, 1), width, height, "lanczos").movedim(1, -1)
    else:
        size = max(first.shape[side], second.shape[side])
        first, second = (_bordered(each, side, size) for each in (first, second))
    parts = [first, second] if direction in ("right", "down") else [second, first]
    if spacing_width:
        shape = list(first.shape)
        shape[other], shape[-1] = spacing_width + spacing_width % 2, 3
        parts.insert(1, opaque(torch.tensor(COLOURS[spacing_color]).float().expand(shape), channels))
    return torch.cat(parts, other)


def _bordered(image: Tensor, axis: int, size: int) -> Tensor:
    """Images with zeros on both sides of an axis, to a size."""
    missing = size - image.shape[axis]
    pads = [0] * 2 * (image.ndim - axis)
    pads[-2:] = missing // 2, missing - missing // 2
    return F.pad(image, pads)
