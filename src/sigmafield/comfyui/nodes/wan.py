"""Nodes that show Wan's networks the frames that a video begins or ends with."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor

from sigmafield.comfyui.conditioning import changed
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.nodes.latents import empty_video
from sigmafield.comfyui.nodes.vision import SeenValue
from sigmafield.comfyui.scaling import scaled
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Conditioning, Image, Latent, Vae
from sigmafield.comfyui.widgets import Batch, Side16
from sigmafield.core.annotations import Range

Side32 = Annotated[int, Range(32, 16384), Input(step=32)]
Length = Annotated[int, Range(1, 16384), Input(step=4)]
OUTPUTS = ("positive", "negative", "latent")
EACH = 4
"""Frames per latent frame, after the first; a mask has as many channels."""


@node("WanImageToVideo", "model/conditioning/wan", outputs=OUTPUTS, version=3)
def wan_image_to_video(
    positive: Conditioning,
    negative: Conditioning,
    vae: Vae,
    width: Side16 = 832,
    height: Side16 = 480,
    length: Length = 81,
    batch_size: Batch = 1,
    clip_vision_output: SeenValue | None = None,
    start_image: Image | None = None,
    ref_pad_image: Image | None = None,
) -> tuple[Conditioning, Conditioning, Latent]:
    """Shows a network of images to video the frames that it begins with.

    Args:
        positive: What to draw.
        negative: What to avoid.
        vae: The VAE.
        width: Width of the video in pixels.
        height: Height of the video in pixels.
        length: Number of frames.
        batch_size: Number of videos.
        clip_vision_output: What a vision encoder sees in the image, for Wan 2.1.
        start_image: The first frames.
        ref_pad_image: An image in place of grey after them.
    """
    latent = empty_video(16, 8, width, height, length, batch_size)
    if start_image is None:
        return both(positive, negative, latent, seen(clip_vision_output))
    start, video = fitted(start_image[:length], width, height), grey(length, width, height)
    if ref_pad_image is not None:
        video = fitted(ref_pad_image[:1], width, height).expand_as(video).clone()
    video[: len(start)] = start
    mask = torch.ones(1, 1, *latent["samples"].shape[2:])
    mask[:, :, : (len(start) - 1) // EACH + 1] = 0
    return both(positive, negative, latent, shown(vae, video, mask) | seen(clip_vision_output))


@node("WanFirstLastFrameToVideo", "model/conditioning/wan", outputs=OUTPUTS, version=3)
def wan_first_last_frame_to_video(
    positive: Conditioning,
    negative: Conditioning,
    vae: Vae,
    width: Side16 = 832,
    height: Side16 = 480,
    length: Length = 81,
    batch_size: Batch = 1,
    clip_vision_start_image: SeenValue | None = None,
    clip_vision_end_image: SeenValue | None = None,
    start_image: Image | None = None,
    end_image: Image | None = None,
) -> tuple[Conditioning, Conditioning, Latent]:
    """Shows a network of images to video the frames that it begins with and those that it ends with.

    Args:
        positive: What to draw.
        negative: What to avoid.
        vae: The VAE.
        width: Width of the video in pixels.
        height: Height of the video in pixels.
        length: Number of frames.
        batch_size: Number of videos.
        clip_vision_start_image: What a vision encoder sees in the first frame, for Wan 2.1.
        clip_vision_end_image: What it sees in the last one.
        start_image: The first frames.
        end_image: The last frames.
    """
    latent = empty_video(vae.channels, vae.factor, width, height, length, batch_size)
    video = grey(length, width, height)
    frames, *space = latent["samples"].shape[2:]
    mask = torch.ones(1, 1, EACH * frames, *space)
    if start_image is not None:
        start = fitted(start_image[:length], width, height)
        video[: len(start)] = start
        mask[:, :, : len(start) + EACH - 1] = 0
    if end_image is not None:
        end = fitted(end_image[-length:], width, height)
        video[-len(end) :] = end
        mask[:, :, -len(end) :] = 0
    mask = mask.reshape(1, frames, EACH, *space).transpose(1, 2)
    vision = seen(clip_vision_start_image, clip_vision_end_image)
    return both(positive, negative, latent, shown(vae, video, mask) | vision)


@node("WanFunInpaintToVideo", "model/conditioning/wan", outputs=OUTPUTS, version=3)
def wan_fun_inpaint_to_video(
    positive: Conditioning,
    negative: Conditioning,
    vae: Vae,
    width: Side16 = 832,
    height: Side16 = 480,
    length: Length = 81,
    batch_size: Batch = 1,
    clip_vision_output: SeenValue | None = None,
    start_image: Image | None = None,
    end_image: Image | None = None,
) -> tuple[Conditioning, Conditioning, Latent]:
    """Shows a network that fills in frames the first and the last ones.

    Args:
        positive: What to draw.
        negative: What to avoid.
        vae: The VAE.
        width: Width of the video in pixels.
        height: Height of the video in pixels.
        length: Number of frames.
        batch_size: Number of videos.
        clip_vision_output: What a vision encoder sees in the first frame, for Wan 2.1.
        start_image: The first frames.
        end_image: The last frames.
    """
    return wan_first_last_frame_to_video(
        positive, negative, vae, width, height, length, batch_size, clip_vision_output, None, start_image, end_image
    )


@node("Wan22ImageToVideoLatent", "model/conditioning/wan", version=3)
def wan22_image_to_video_latent(
    vae: Vae,
    width: Side32 = 1280,
    height: Side32 = 704,
    length: Length = 49,
    batch_size: Batch = 1,
    start_image: Image | None = None,
) -> Latent:
    """Latents for Wan 2.2 5B that begin with given frames, which a mask keeps.

    Args:
        vae: The VAE.
        width: Width of the video in pixels.
        height: Height of the video in pixels.
        length: Number of frames.
        batch_size: Number of videos, where there is a start image.
        start_image: The first frames.
    """
    if start_image is None:
        return empty_video(48, 16, width, height, length, 1)
    made = empty_video(48, 16, width, height, length, batch_size)
    samples = made["samples"]
    start = vae.encode(fitted(start_image[:length], width, height).movedim(0, 1)[None]).cpu()
    mask = torch.ones_like(samples[:, :1])
    samples[:, :, : start.shape[2]], mask[:, :, : start.shape[2]] = start, 0
    return {"samples": samples, "noise_mask": mask}


def fitted(images: Tensor, width: int, height: int) -> Tensor:
    """Images [n, H, W, C] as frames [n, 3, height, width]."""
    return scaled(images[..., :3].movedim(-1, 1), width, height, "bilinear", "center")


def grey(length: int, width: int, height: int) -> Tensor:
    """A grey video [length, 3, height, width]."""
    return torch.full((length, 3, height, width), 0.5)


def shown(vae: Vae, video: Tensor, mask: Tensor) -> dict[str, Any]:
    """What a network is shown of a video, by ComfyUI's names: its latents, and where they are to be drawn."""
    return {"concat_latent_image": vae.encode(video.movedim(0, 1)[None]).cpu(), "concat_mask": mask}


def seen(*images: SeenValue | None) -> dict[str, Any]:
    """What a vision encoder sees, by ComfyUI's name: of several images, tokens one after the other."""
    found = [image for image in images if image is not None]
    if not found:
        return {}
    tokens = torch.cat([image.penultimate_hidden_states for image in found], dim=1)
    return {"clip_vision_output": replace(found[0], penultimate_hidden_states=tokens)}


def both(
    positive: Conditioning, negative: Conditioning, latent: Latent, more: dict[str, Any]
) -> tuple[Conditioning, Conditioning, Latent]:
    """Both conditionings with more, and the latent."""
    return changed(positive, **more), changed(negative, **more), latent
