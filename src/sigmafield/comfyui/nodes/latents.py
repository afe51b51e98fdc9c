"""Nodes that make latents, and change their size and what is where in them."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.pasting import feathered, pasted
from sigmafield.comfyui.scaling import scaled
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Latent, Mask
from sigmafield.comfyui.widgets import Batch, Side16
from sigmafield.core.annotations import Range

Resize = Literal["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]
Rotation = Literal["none", "90 degrees", "180 degrees", "270 degrees"]
Flip = Literal["x-axis: vertically", "y-axis: horizontally"]
Side = Annotated[int, Range(16, 16384), Input(step=8)]
Pixels = Annotated[int, Range(0, 16384), Input(step=8)]


@node("EmptyLatentImage", "latent", title="Empty Latent Image")
def empty_latent_image(width: Side = 512, height: Side = 512, batch_size: Batch = 1) -> Latent:
    """Empty latents to start from.

    Args:
        width: Width of the images in pixels.
        height: Height of the images in pixels.
        batch_size: Number of images.
    """
    return {"samples": torch.zeros(batch_size, 4, height // 8, width // 8), "downscale_ratio_spacial": 8}


@node("EmptySD3LatentImage", "latent/sd3", version=3)
def empty_sd3_latent_image(width: Side16 = 1024, height: Side16 = 1024, batch_size: Batch = 1) -> Latent:
    """Empty latents of 16 channels, as Stable Diffusion 3 and Flux have.

    Args:
        width: Width of the images in pixels.
        height: Height of the images in pixels.
        batch_size: Number of images.
    """
    return {"samples": torch.zeros(batch_size, 16, height // 8, width // 8), "downscale_ratio_spacial": 8}


@node("EmptyFlux2LatentImage", "latent", title="Empty Flux 2 Latent", version=3)
def empty_flux2_latent_image(width: Side16 = 1024, height: Side16 = 1024, batch_size: Batch = 1) -> Latent:
    """Empty latents of 128 channels and 1/16 of the size, as Flux.2 has.

    Args:
        width: Width of the images in pixels.
        height: Height of the images in pixels.
        batch_size: Number of images.
    """
    return {"samples": torch.zeros(batch_size, 128, height // 16, width // 16)}


@node("EmptyHunyuanLatentVideo", "latent/video", title="Empty HunyuanVideo 1.0 Latent", version=3)
def empty_hunyuan_latent_video(
    width: Side16 = 848,
    height: Side16 = 480,
    length: Annotated[int, Range(1, 16384), Input(step=4)] = 25,
    batch_size: Batch = 1,
) -> Latent:
    """Empty latents of videos with 16 channels, as HunyuanVideo and Wan 2.1 have.

    Args:
        width: Width of the videos in pixels.
        height: Height of the videos in pixels.
        length: Number of frames: 1 more than a multiple of 4.
        batch_size: Number of videos.
    """
    return empty_video(16, 8, width, height, length, batch_size)


def empty_video(channels: int, factor: int, width: int, height: int, length: int, batch: int, each: int = 4) -> Latent:
    """Empty latents of videos.

    Args:
        channels: Their channels.
        factor: Pixels per latent position along a side.
        width: Width in pixels.
        height: Height in pixels.
        length: Number of frames.
        batch: Number of videos.
        each: Frames per latent frame, after the first.
    """
    return {"samples": torch.zeros(batch, channels, (length - 1) // each + 1, height // factor, width // factor)}


@node("LatentUpscale", "latent", title="Upscale Latent")
def latent_upscale(
    samples: Latent,
    upscale_method: Resize,
    width: Pixels = 512,
    height: Pixels = 512,
    crop: Literal["disabled", "center"] = "disabled",
) -> Latent:
    """Resizes latents.

    Args:
        samples: The latents.
        upscale_method: The interpolation.
        width: The new width in pixels, at least 64; 0 keeps the ratio of the sides.
        height: The new height likewise; if both are 0, the size stays.
        crop: "center" cuts to the new ratio of the sides first.
    """
    x = samples["samples"]
    if not width and not height:
        return samples
    old_height, old_width = x.shape[-2:]
    height = max(64, height) if height else max(64, round(old_height * max(64, width) / old_width))
    width = max(64, width) if width else max(64, round(old_width * height / old_height))
    return {**samples, "samples": scaled(x, width // 8, height // 8, upscale_method, crop)}


@node("LatentUpscaleBy", "latent", title="Upscale Latent By")
def latent_upscale_by(
    samples: Latent, upscale_method: Resize, scale_by: Annotated[float, Range(0.01, 8), Input(step=0.01)] = 1.5
) -> Latent:
    """Resizes latents by a factor.

    Args:
        samples: The latents.
        upscale_method: The interpolation.
        scale_by: The factor.
    """
    x = samples["samples"]
    height, width = (round(side * scale_by) for side in x.shape[-2:])
    return {**samples, "samples": scaled(x, width, height, upscale_method)}


def rotated(x: Tensor, rotation: Rotation, axes: tuple[int, int]) -> Tensor:
    """x turned clockwise; `axes` are those of the rows and the columns."""
    turns = {"none": 0, "90 degrees": 1, "180 degrees": 2, "270 degrees": 3}[rotation]
    return torch.rot90(x, turns, (axes[1], axes[0]))


@node("LatentRotate", "latent/transform", title="Rotate Latent")
def latent_rotate(samples: Latent, rotation: Rotation) -> Latent:
    """Turns latents clockwise.

    Args:
        samples: The latents.
        rotation: By how much.
    """
    return {**samples, "samples": rotated(samples["samples"], rotation, (-2, -1))}


@node("LatentFlip", "latent/transform", title="Flip Latent")
def latent_flip(samples: Latent, flip_method: Flip) -> Latent:
    """Mirrors latents.

    Args:
        samples: The latents.
        flip_method: Whether top and bottom or left and right change places.
    """
    return {**samples, "samples": samples["samples"].flip(-2 if flip_method.startswith("x") else -1)}


@node("LatentCrop", "latent/transform", title="Crop Latent")
def latent_crop(
    samples: Latent,
    width: Annotated[int, Range(64, 16384), Input(step=8)] = 512,
    height: Annotated[int, Range(64, 16384), Input(step=8)] = 512,
    x: Pixels = 0,
    y: Pixels = 0,
) -> Latent:
    """Cuts a part out of latents; it begins at least 8 latent positions before the right and the lower end.

    Args:
        samples: The latents.
        width: Width of the part in pixels.
        height: Height of the part in pixels.
        x: Its left edge in pixels.
        y: Its upper edge in pixels.
    """
    z = samples["samples"]
    top, left = (max(0, min(at // 8, side - 8)) for at, side in ((y, z.shape[-2]), (x, z.shape[-1])))
    return {**samples, "samples": z[..., top : top + height // 8, left : left + width // 8]}


@node("LatentComposite", "latent", title="Latent Composite")
def latent_composite(
    samples_to: Latent, samples_from: Latent, x: Pixels = 0, y: Pixels = 0, feather: Pixels = 0
) -> Latent:
    """Puts latents onto others.

    Args:
        samples_to: What is changed.
        samples_from: What is put onto it.
        x: Left edge of what is put there, in pixels.
        y: Upper edge of what is put there, in pixels.
        feather: Width in pixels of the transition at those edges that are not at an edge of the whole.
    """
    to, part = samples_to["samples"], samples_from["samples"]
    (height, width), (h, w) = to.shape[-2:], part.shape[-2:]
    left, top, n = x // 8, y // 8, feather // 8
    ends = n * (left > 0), n * (top > 0), n * (left + w < width), n * (top + h < height)
    return {**samples_to, "samples": pasted(to, part, left, top, feathered((h, w), *ends) if n else None)}


@node("LatentCompositeMasked", "latent", version=3)
def latent_composite_masked(
    destination: Latent,
    source: Latent,
    x: Pixels = 0,
    y: Pixels = 0,
    resize_source: bool = False,
    mask: Mask | None = None,
) -> Latent:
    """Puts latents onto others, where a mask is 1.

    Args:
        destination: What is changed.
        source: What is put onto it.
        x: Left edge of the source in the destination, in pixels.
        y: Upper edge of the source in the destination, in pixels.
        resize_source: Whether the source is resized to the size of the destination.
        mask: The mask, which is resized to the size of the source.
    """
    made = pasted(destination["samples"], source["samples"], x // 8, y // 8, mask, resize_source)
    return {**destination, "samples": made}


@node("SetLatentNoiseMask", "latent/inpaint", title="Set Latent Noise Mask")
def set_latent_noise_mask(samples: Latent, mask: Mask) -> Latent:
    """Says which part of latents is drawn.

    Args:
        samples: The latents.
        mask: The part, 1 = draw.
    """
    return {**samples, "noise_mask": mask.reshape(-1, 1, *mask.shape[-2:])}
