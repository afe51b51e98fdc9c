"""Nodes that make and change latents."""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Latent
from sigmafield.core.annotations import Range
from sigmafield.core.resize import resize

Resize = Literal["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]
Side = Annotated[int, Range(16, 16384), Input(step=8)]


@node("EmptyLatentImage", "latent", title="Empty Latent Image")
def empty_latent_image(width: Side = 512, height: Side = 512, batch_size: Annotated[int, Range(1, 4096)] = 1) -> Latent:
    """Empty latents to start from.

    Args:
        width: Width of the images in pixels.
        height: Height of the images in pixels.
        batch_size: Number of images.
    """
    return {"samples": torch.zeros(batch_size, 4, height // 8, width // 8)}


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
    return {**samples, "samples": resize(x, height, width, upscale_method)}
