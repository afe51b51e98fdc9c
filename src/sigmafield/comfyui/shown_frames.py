"""What networks of videos are shown: frames, a control video, and the control of Wan VACE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sigmafield.core.linear import filled
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.vace import STRENGTH, control_of, takes_control

SHOWN = 4
"""Channels of the mask that says which frames a network is shown."""


def shown_frames(extra: Mapping[str, Any], model: DiffusionModel, latent: Tensor) -> Tensor | None:
    """The further channels of a network of videos: 0 where a pair of a conditioning has nothing to show.

    Args:
        extra: The pair's dict.
        model: The network.
        latent: The latent that is sampled [B, C, frames, h, w].

    Raises:
        ValueError: What is shown is for another network, or for a latent of another size.
    """
    if not model.concat:
        return None
    made = _control(extra, model) if takes_control(model) else _frames(extra, model)
    if made is None:
        return latent.new_zeros(len(latent), model.concat, *latent.shape[2:])
    if made.shape[2:] != latent.shape[2:]:
        sizes = [tuple(each.shape[2:]) for each in (made, latent)]
        raise ValueError(f"a conditioning shows {model.name} latents of {sizes[0]}, and the latent is {sizes[1]}")
    return filled(made.to(latent), len(latent), axis=0)


def strengths(rows: int, extra: Mapping[str, Any], size: Sequence[int], negative: bool) -> dict[str, Tensor]:
    """The strength of Wan VACE's control, 0 for a pair without one."""
    return {STRENGTH: torch.full((rows,), float(extra.get("vace_strength", (0.0,))[0]))}


def _control(extra: Mapping[str, Any], model: DiffusionModel) -> Tensor | None:
    latents, masks = extra.get("vace_frames", ()), extra.get("vace_mask", ())
    if len(latents) > 1:
        raise ValueError(f"{model.name} is shown one control; got {len(latents)}, of as many WanVaceToVideo")
    return control_of(model.latent, latents[0], masks[0]) if latents else None


def _frames(extra: Mapping[str, Any], model: DiffusionModel) -> Tensor | None:
    """Latents of frames, and among them a mask, 1 for the frames that the network is shown."""
    image, mask, form = extra.get("concat_latent_image"), extra.get("concat_mask"), model.latent
    if image is None:
        return None
    parts, marked = divmod(model.concat, form.channels)
    if image.shape[1] != parts * form.channels:
        raise ValueError(
            f"{model.name} is shown {parts * form.channels} channels of latents; got {image.shape[1]}: "
            "Fun-Control needs WanFunControlToVideo or Wan22FunControlToVideo, other networks the other nodes of Wan"
        )
    image = torch.cat([form.to_network(each) for each in image.split(form.channels, dim=1)], dim=1)
    if not marked:
        return image
    shown = torch.zeros_like(image[:, :SHOWN]) if mask is None else 1 - filled(mask.to(image), SHOWN, axis=1)
    at = extra.get("concat_mask_index", 0)
    return torch.cat([image[:, :at], shown.expand(len(image), -1, -1, -1, -1), image[:, at:]], dim=1)
