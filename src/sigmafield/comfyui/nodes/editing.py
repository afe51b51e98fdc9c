"""Nodes that show editing networks the images to edit."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from sigmafield.comfyui.conditioning import changed, entry
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.scaling import scaled
from sigmafield.comfyui.values import Clip, Conditioning, Image, Latent, Vae
from sigmafield.comfyui.widgets import Prompt

SEEN, WHOLE = 384**2, 1024**2
"""Pixels of the images that a text encoder is shown of several, and of those that the network is shown."""


@node("ReferenceLatent", "advanced/conditioning/edit_models", version=3)
def reference_latent(conditioning: Conditioning, latent: Latent | None = None) -> Conditioning:
    """Shows an editing network a latent, after those that it is shown already.

    Args:
        conditioning: The conditioning.
        latent: The latent of the image to edit.
    """
    return list(conditioning) if latent is None else shown(conditioning, [latent["samples"]])


@node(
    "FluxKontextMultiReferenceLatentMethod",
    "advanced/conditioning/flux",
    title="Edit Model Reference Method",
    version=3,
    experimental=True,
)
def reference_method(
    conditioning: Conditioning, reference_latents_method: Literal["offset", "index", "uxo/uno", "index_timestep_zero"]
) -> Conditioning:
    """Says how an editing network tells images apart.

    Args:
        conditioning: The conditioning.
        reference_latents_method: By number ("index"), for Qwen-Image also with timestep 0 for the images
            ("index_timestep_zero"); of one image "offset" is the same as "index". Others are not supported.
    """
    return changed(conditioning, reference_latents_method=reference_latents_method)


@node("TextEncodeQwenImageEdit", "advanced/conditioning", version=3)
def text_encode_qwen_image_edit(
    clip: Clip, prompt: Prompt, vae: Vae | None = None, image: Image | None = None
) -> Conditioning:
    """Encodes what is changed in an image, which the text encoder and the network are shown.

    Args:
        clip: The text encoder.
        prompt: What is changed.
        vae: The VAE; without one only the text encoder is shown the image.
        image: The image, brought to about a million pixels.
    """
    images = [] if image is None else [sized(image, WHOLE, 1)]
    return edited(clip, prompt, images, [] if vae is None else [encoded(vae, each) for each in images], numbered=False)


@node("TextEncodeQwenImageEditPlus", "advanced/conditioning", version=3)
def text_encode_qwen_image_edit_plus(
    clip: Clip,
    prompt: Prompt,
    vae: Vae | None = None,
    image1: Image | None = None,
    image2: Image | None = None,
    image3: Image | None = None,
) -> Conditioning:
    """Encodes what is made of up to three images, which the text encoder and the network are shown.

    Args:
        clip: The text encoder.
        prompt: What is made of them, called Picture 1, 2, ….
        vae: The VAE; without one only the text encoder is shown the images.
        image1: The first image; the text encoder sees it small, the network at about a million pixels.
        image2: The second one.
        image3: The third one.
    """
    images = [image for image in (image1, image2, image3) if image is not None]
    latents = [] if vae is None else [encoded(vae, sized(image, WHOLE, 8)) for image in images]
    return edited(clip, prompt, [sized(image, SEEN, 1) for image in images], latents, numbered=True)


def edited(clip: Clip, prompt: str, images: list[Tensor], latents: list[Tensor], numbered: bool) -> Conditioning:
    """A prompt encoded with the images [1, 3, H, W] that it speaks of, and their latents."""
    if not images:
        return [entry(clip.encode([prompt], (0, 0)))]
    made = [entry(clip.encode_edit([prompt], images, numbered))]
    return shown(made, latents) if latents else made


def sized(image: Tensor, pixels: int, multiple: int) -> Tensor:
    """The first of some images [B, H, W, C], as [1, 3, h, w] of about as many pixels and the same proportions."""
    first = image[:1, ..., :3].movedim(-1, 1)
    ratio = math.sqrt(pixels / (first.shape[2] * first.shape[3]))
    height, width = (max(round(side * ratio / multiple), 1) * multiple for side in first.shape[2:])
    return scaled(first, width, height, "area", "disabled")


def encoded(vae: Vae, image: Tensor) -> Tensor:
    """The latent of an image [1, 3, H, W]."""
    return vae.encode(image).cpu()


def shown(conditioning: Conditioning, latents: list[Tensor]) -> Conditioning:
    """The pairs with more latents for the network to see."""
    return [
        (embeds, {**extra, "reference_latents": [*extra.get("reference_latents", ()), *latents]})
        for embeds, extra in conditioning
    ]
