"""Nodes for Hunyuan's images and videos: empty latents, and frames to begin with."""

from __future__ import annotations

from typing import Annotated

import torch

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.nodes.latents import empty_video
from sigmafield.comfyui.nodes.vision import SeenValue
from sigmafield.comfyui.nodes.wan import OUTPUTS, Length, both, fitted, seen
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Conditioning, Image, Latent, Vae
from sigmafield.comfyui.widgets import Batch, Side16
from sigmafield.core.annotations import Range

Side = Annotated[int, Range(64, 16384), Input(step=32)]
VIDEO_CHANNELS, VIDEO_FACTOR = 32, 16
"""Of HunyuanVideo 1.5."""


@node("EmptyHunyuanImageLatent", "model/latent", version=3)
def empty_hunyuan_image_latent(width: Side = 2048, height: Side = 2048, batch_size: Batch = 1) -> Latent:
    """Empty latents of images for HunyuanImage 2.1.

    Args:
        width: Width of the images in pixels.
        height: Height of the images in pixels.
        batch_size: Number of images.
    """
    return {"samples": torch.zeros(batch_size, 64, height // 32, width // 32)}


@node("EmptyHunyuanVideo15Latent", "model/latent/video", title="Empty HunyuanVideo 1.5 Latent", version=3)
def empty_hunyuan_video15_latent(
    width: Side16 = 848, height: Side16 = 480, length: Length = 25, batch_size: Batch = 1
) -> Latent:
    """Empty latents of videos for HunyuanVideo 1.5.

    Args:
        width: Width of the videos in pixels.
        height: Height of the videos in pixels.
        length: Number of frames: 1 more than a multiple of 4.
        batch_size: Number of videos.
    """
    return empty_video(VIDEO_CHANNELS, VIDEO_FACTOR, width, height, length, batch_size)


@node("HunyuanVideo15ImageToVideo", "model/conditioning/hunyuan", outputs=OUTPUTS, version=3)
def hunyuan_video15_image_to_video(
    positive: Conditioning,
    negative: Conditioning,
    vae: Vae,
    width: Side16 = 848,
    height: Side16 = 480,
    length: Length = 33,
    batch_size: Batch = 1,
    start_image: Image | None = None,
    clip_vision_output: SeenValue | None = None,
) -> tuple[Conditioning, Conditioning, Latent]:
    """Shows HunyuanVideo 1.5 the frames that a video begins with.

    Args:
        positive: What to draw.
        negative: What to avoid.
        vae: The VAE.
        width: Width of the video in pixels.
        height: Height of the video in pixels.
        length: Number of frames.
        batch_size: Number of videos.
        start_image: The first frames.
        clip_vision_output: What a vision encoder sees in the image.
    """
    latent, more = empty_hunyuan_video15_latent(width, height, length, batch_size), seen(clip_vision_output)
    if start_image is None:
        return both(positive, negative, latent, more)
    start = vae.encode(fitted(start_image[:length], width, height).movedim(0, 1)[None]).cpu()
    shown, mask = torch.zeros_like(latent["samples"][:1]), torch.ones_like(latent["samples"][:1, :1])
    shown[:, :, : start.shape[2]], mask[:, :, : start.shape[2]] = start, 0
    return both(positive, negative, latent, {"concat_latent_image": shown, "concat_mask": mask} | more)
