"""Nodes for LTX's videos: empty latents, frame rates, frames to begin with, and levels."""

from __future__ import annotations

from math import prod
from typing import Annotated

import torch
from torch import Tensor

from sigmafield.comfyui.conditioning import changed
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.nodes.latents import empty_video
from sigmafield.comfyui.nodes.model_sampling import model_sampling_flux
from sigmafield.comfyui.nodes.wan import fitted
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Conditioning, Image, Latent, Model, Sigmas, Vae
from sigmafield.comfyui.widgets import Batch, Scale, Share, StepCount
from sigmafield.core.annotations import Range
from sigmafield.parameterization.timesteps import resolution_shift
from sigmafield.schedules import published
from sigmafield.spatial.inpaint import fit_mask

Side = Annotated[int, Range(64, 16384), Input(step=32)]
Length = Annotated[int, Range(1, 16384), Input(step=8)]
CHANNELS, EACH, FACTOR = 128, 8, 32
"""Channels of latents; frames per latent frame, after the first; pixels per latent position."""
TOKENS = 4096
"""Latent positions for which a shift is computed when no latent is given."""


@node("EmptyLTXVLatentVideo", "model/latent/video/ltxv", version=3)
def empty_ltxv_latent_video(
    width: Side = 768, height: Side = 512, length: Length = 97, batch_size: Batch = 1
) -> Latent:
    """Empty latents of videos for LTX.

    Args:
        width: Width of the videos in pixels.
        height: Height of the videos in pixels.
        length: Number of frames: 1 more than a multiple of 8.
        batch_size: Number of videos.
    """
    return empty_video(CHANNELS, FACTOR, width, height, length, batch_size, EACH)


@node("LTXVConditioning", "model/conditioning/ltxv", outputs=("positive", "negative"), version=3)
def ltxv_conditioning(
    positive: Conditioning,
    negative: Conditioning,
    frame_rate: Annotated[float, Range(0.0, 1000.0, above=True), Input(step=0.01)] = 25.0,
) -> tuple[Conditioning, Conditioning]:
    """Sets the frame rate that a network of LTX takes as an input.

    Args:
        positive: What to draw.
        negative: What to avoid.
        frame_rate: Frames per second.
    """
    return changed(positive, frame_rate=frame_rate), changed(negative, frame_rate=frame_rate)


@node("LTXVImgToVideo", "model/conditioning/ltxv", outputs=("positive", "negative", "latent"), version=3)
def ltxv_img_to_video(
    positive: Conditioning,
    negative: Conditioning,
    vae: Vae,
    image: Image,
    width: Side = 768,
    height: Side = 512,
    length: Length = 97,
    batch_size: Batch = 1,
    strength: Share = 1.0,
) -> tuple[Conditioning, Conditioning, Latent]:
    """Makes latents for LTX that begin with given frames, which a mask keeps.

    Args:
        positive: What to draw.
        negative: What to avoid.
        vae: The VAE.
        image: The first frames.
        width: Width of the video in pixels.
        height: Height of the video in pixels.
        length: Number of frames.
        batch_size: Number of videos.
        strength: How far the frames are kept: 1 = unchanged.
    """
    empty = empty_video(vae.channels, vae.factor, width, height, length, batch_size, vae.frame_factor or EACH)
    return positive, negative, begun(vae, image, empty, strength)


@node("LTXVImgToVideoInplace", "model/conditioning/ltxv", outputs=("latent",), version=3)
def ltxv_img_to_video_inplace(
    vae: Vae, image: Image, latent: Latent, strength: Share = 1.0, bypass: bool = False
) -> Latent:
    """Puts frames at the beginning of a latent of LTX, where a mask keeps them.

    Args:
        vae: The VAE.
        image: The first frames.
        latent: The latent.
        strength: How far the frames are kept: 1 = unchanged.
        bypass: Whether the latent stays as it is.
    """
    return latent if bypass else begun(vae, image, latent, strength)


def begun(vae: Vae, image: Tensor, latent: Latent, strength: float) -> Latent:
    """A latent with given frames at its beginning, and a mask that is 1 − strength there.

    Args:
        vae: The VAE.
        image: The frames [n, H, W, 3] in [0, 1].
        latent: The latent.
        strength: How far the frames are kept, from 0 to 1.
    """
    samples = latent["samples"].clone()
    batch, _, frames, height, width = samples.shape
    start = vae.encode(fitted(image, width * vae.factor, height * vae.factor).movedim(0, 1)[None]).cpu()
    start = start[:, :, :frames]
    mask = latent.get("noise_mask")
    mask = torch.ones(batch, 1, frames, 1, 1) if mask is None else fit_mask(mask, samples)[:, :1].clone()
    samples[:, :, : start.shape[2]], mask[:, :, : start.shape[2]] = start, 1 - strength
    return {**latent, "samples": samples, "noise_mask": mask}


@node("LTXVScheduler", "model/sampling/schedulers", version=3)
def ltxv_scheduler(
    steps: StepCount = 20,
    max_shift: Scale = 2.05,
    base_shift: Scale = 0.95,
    stretch: bool = True,
    terminal: Annotated[float, Range(0.0, 0.99), Input(step=0.01)] = 0.1,
    latent: Latent | None = None,
) -> Sigmas:
    """LTX's levels for a number of latent positions.

    Args:
        steps: Number of steps.
        max_shift: Shift at 4096 positions.
        base_shift: Shift at 1024 positions.
        stretch: Whether the levels are stretched so that the last one above 0 is `terminal`.
        terminal: That level.
        latent: Whose positions count; 4096 without one.
    """
    return published.ltxv(
        steps,
        tokens=positions_of(latent),
        max_shift=max_shift,
        base_shift=base_shift,
        stretch=stretch,
        terminal=terminal,
    )


@node("ModelSamplingLTXV", "advanced/model", version=3)
def model_sampling_ltxv(
    model: Model, max_shift: Scale = 2.05, base_shift: Scale = 0.95, latent: Latent | None = None
) -> Model:
    """Sets LTX's levels for a number of latent positions.

    Args:
        model: The model.
        max_shift: Shift at 4096 positions.
        base_shift: Shift at 1024 positions.
        latent: Whose positions count; 4096 without one.
    """
    mu = resolution_shift(float(positions_of(latent)), (1024.0, base_shift), (4096.0, max_shift))
    return model_sampling_flux(model, mu, mu)


def positions_of(latent: Latent | None) -> int:
    """The positions of a latent, over all frames."""
    return TOKENS if latent is None else prod(latent["samples"].shape[2:])
