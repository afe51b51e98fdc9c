"""Nodes that give a network images: control nets, inpainting, editing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmafield.comfyui.conditioning import Entry, changed
from sigmafield.comfyui.control import KINDS, Steering
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.values import Conditioning, ControlNet, Image, Latent, Mask, Vae
from sigmafield.comfyui.widgets import Percent, Strength


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
    height, width = (side // 8 * 8 for side in pixels.shape[1:3])
    shape = (1, 1, *pixels.shape[1:3])
    m = F.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]).float(), size=shape[2:], mode="bilinear")
    whole = encoded(vae, pixels)
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    image = pixels[:, top : top + height, left : left + width]
    m = m[..., top : top + height, left : left + width]
    hidden = (image - 0.5) * (1 - m.round()).movedim(1, -1) + 0.5
    shown = {"concat_latent_image": encoded(vae, hidden), "concat_mask": m}
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
    height, width = (side // 8 * 8 for side in pixels.shape[1:3])
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    shown = encoded(vae, pixels[:, top : top + height, left : left + width])
    both = [changed(each, concat_latent_image=shown) for each in (positive, negative)]
    return both[0], both[1], {"samples": torch.zeros_like(shown)}


def encoded(vae: Vae, images: Tensor) -> Tensor:
    """Latents of images [B, H, W, C] in the VAE's scale, on the CPU."""
    return vae.encode(images[..., :3].movedim(-1, 1)).cpu()


def hint_of(image: Tensor) -> Tensor:
    """Images [B, H, W, C] as a control net's hint [B, 3, H, W]."""
    return image[..., :3].movedim(-1, 1)


def _controlled(conditioning: Sequence[Entry], steering: Steering) -> list[Entry]:
    """The pairs with one more control."""
    return [(embeds, {**extra, "control": (*extra.get("control", ()), steering)}) for embeds, extra in conditioning]
