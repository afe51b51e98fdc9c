"""Nodes that give a network images: control nets, inpainting, editing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from sigmafield.comfyui.conditioning import Entry, changed
from sigmafield.comfyui.control import KINDS, Steering
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.values import Conditioning, ControlNet, Image, Latent, Mask, Vae
from sigmafield.comfyui.widgets import Percent, Strength
from sigmafield.core.resize import resize_mask
from sigmafield.models.vae.vae import whole_positions
from sigmafield.spatial.inpaint import hidden

RATIO = 8
"""Pixels per latent position that these nodes take for granted: the sides of what they show are multiples of it."""


@node("ControlNetApply", "conditioning/controlnet", title="Apply ControlNet (OLD)", deprecated=True)
def controlnet_apply(
    conditioning: Conditioning, control_net: ControlNet, image: Image, strength: Strength = 1.0
) -> Conditioning:
    """Steers the network by an image.

    Args:
        conditioning: The conditioning.
        control_net: The control net.
        image: The image that it reads.
        strength: Factor of what it adds; 0 leaves the conditionings as they are.
    """
    if not strength:
        return list(conditioning)
    made = _controlled(conditioning, Steering(control_net, hint_of(image), strength, (0.0, 1.0), None))
    return changed(made, control_apply_to_uncond=True)


@node(
    "ControlNetApplyAdvanced",
    "conditioning/controlnet",
    title="Apply ControlNet",
    outputs=(
        "positive",
        "negative",
    ),
)
def controlnet_apply_advanced(
    positive: Conditioning,
    negative: Conditioning,
    control_net: ControlNet,
    image: Image,
    strength: Strength = 1.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
    vae: Vae | None = None,
) -> tuple[Conditioning, Conditioning]:
    """Steers the network by an image, for a part of the run.

    Args:
        positive: What to draw.
        negative: What to avoid.
        control_net: The control net.
        image: The image that it reads.
        strength: Factor of what it adds; 0 leaves the conditionings as they are.
        start_percent: Share of the way through sampling where it begins to act.
        end_percent: Share of the way through sampling where it stops acting.
        vae: The VAE, for control nets that read latents.
    """
    if not strength:
        return list(positive), list(negative)
    steering = Steering(control_net, hint_of(image), strength, (start_percent, end_percent), vae)
    both = [_controlled(each, steering) for each in (positive, negative)]
    return changed(both[0], control_apply_to_uncond=False), changed(both[1], control_apply_to_uncond=False)


@node(
    "ControlNetApplySD3",
    "conditioning/controlnet",
    title="Apply Controlnet with VAE",
    outputs=(
        "positive",
        "negative",
    ),
    deprecated=True,
)
def controlnet_apply_sd3(
    positive: Conditioning,
    negative: Conditioning,
    control_net: ControlNet,
    vae: Vae,
    image: Image,
    strength: Strength = 1.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
) -> tuple[Conditioning, Conditioning]:
    """Steers the network by an image, for a part of the run.

    Args:
        positive: What to draw.
        negative: What to avoid.
        control_net: The control net.
        vae: The VAE, for control nets that read latents.
        image: The image that it reads.
        strength: Factor of what it adds; 0 leaves the conditionings as they are.
        start_percent: Share of the way through sampling where it begins to act.
        end_percent: Share of the way through sampling where it stops acting.
    """
    return controlnet_apply_advanced(positive, negative, control_net, image, strength, start_percent, end_percent, vae)


@node("SetUnionControlNetType", "conditioning/controlnet", version=3)
def set_union_controlnet_type(
    control_net: ControlNet,
    type: Literal[
        "auto",
        "openpose",
        "depth",
        "hed/pidi/scribble/ted",
        "canny/lineart/anime_lineart/mlsd",
        "normal",
        "segment",
        "tile",
        "repaint",
    ],
) -> ControlNet:
    """Says which kind of hint a control net is given that reads several.

    Args:
        control_net: The control net.
        type: The kind; "auto" leaves it open.
    """
    return replace(control_net, kind=KINDS.get(type))


@node(
    "InpaintModelConditioning",
    "conditioning/inpaint",
    outputs=(
        "positive",
        "negative",
        "latent",
    ),
)
def inpaint_model_conditioning(
    positive: Conditioning, negative: Conditioning, vae: Vae, pixels: Image, mask: Mask, noise_mask: bool = True
) -> tuple[Conditioning, Conditioning, Latent]:
    """Shows an inpainting network the image around a mask.

    Args:
        positive: What to draw.
        negative: What to avoid.
        vae: The VAE.
        pixels: The image.
        mask: What to draw: 1.
        noise_mask: Whether only the masked part of the latent is denoised.
    """
    images = pixels[..., :3].movedim(-1, 1)
    m = resize_mask(mask.reshape(-1, 1, *mask.shape[-2:]).float(), images.shape[-2:])
    middle, m = (whole_positions(each, RATIO) for each in (images, m))
    shown = {"concat_latent_image": vae.encode(hidden(middle, m)).cpu(), "concat_mask": m}
    whole = vae.encode(images).cpu()
    latent: Latent = {"samples": whole, "noise_mask": m} if noise_mask else {"samples": whole}
    return changed(positive, **shown), changed(negative, **shown), latent


@node(
    "InstructPixToPixConditioning",
    "conditioning/instructpix2pix",
    outputs=(
        "positive",
        "negative",
        "latent",
    ),
)
def instruct_pix_to_pix_conditioning(
    positive: Conditioning, negative: Conditioning, vae: Vae, pixels: Image
) -> tuple[Conditioning, Conditioning, Latent]:
    """Shows a network that follows instructions the image to change.

    Args:
        positive: What to draw.
        negative: What to avoid.
        vae: The VAE.
        pixels: The image.
    """
    shown = vae.encode(whole_positions(pixels[..., :3].movedim(-1, 1), RATIO)).cpu()
    both = [changed(each, concat_latent_image=shown) for each in (positive, negative)]
    return both[0], both[1], {"samples": torch.zeros_like(shown)}


def hint_of(image: Tensor) -> Tensor:
    """Images [B, H, W, C] as a control net's hint [B, 3, H, W]."""
    return image[..., :3].movedim(-1, 1)


def _controlled(conditioning: Sequence[Entry], steering: Steering) -> list[Entry]:
    """The pairs with one more control."""
    return [(embeds, {**extra, "control": (*extra.get("control", ()), steering)}) for embeds, extra in conditioning]
