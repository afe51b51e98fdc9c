"""Nodes for Qwen-Image 2.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from sigmafield.comfyui.conditioning import entry
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.nodes.editing import encoded, shown
from sigmafield.comfyui.scaling import scaled
from sigmafield.comfyui.sockets import Autogrow, Input
from sigmafield.comfyui.values import Clip, Conditioning, Image, Latent, Model, Vae
from sigmafield.comfyui.widgets import Prompt
from sigmafield.core.annotations import Range

UNIT = 32
"""Pixels of what the text encoder sees as one token."""
Images = Annotated[Mapping[str, Any], Autogrow(Image, "image", names=tuple(f"image_{k}" for k in range(1, 17)), min=0)]


@node(
    "TextEncodeQwenImage21",
    "model/conditioning/qwen image",
    outputs=("positive", "negative", "latent"),
    version=3,
)
def text_encode_qwen_image21(
    clip: Clip,
    prompt: Prompt = "",
    negative_prompt: Prompt = "",
    resolution: Annotated[int, Range(0, 4096), Input(step=32)] = 1024,
    *,
    images: Images,
    vae: Vae | None = None,
) -> tuple[Conditioning, Conditioning, Latent]:
    """Encodes prompts with images, which they refer to as <image1>, <image2>, ….

    Args:
        clip: The text encoder.
        prompt: What to draw.
        negative_prompt: What to avoid.
        resolution: Images are resized to about resolution² pixels; 0 only rounds their sides to multiples of 32.
        images: The images.
        vae: The VAE; without it, only the text encoder sees the images.
    """
    seen = [fitting(image, resolution) for image in images.values()]
    made = [encoded_with(clip, text, seen) for text in (prompt, negative_prompt)]
    if vae is not None and seen:
        latents = [encoded(vae, image) for image in seen]
        made = [shown(each, latents) for each in made]
    height, width = seen[0].shape[2:] if seen else (resolution or 1024,) * 2
    return made[0], made[1], {"samples": torch.zeros(1, 64, height // 16, width // 16)}


def encoded_with(clip: Clip, prompt: str, images: list[Tensor]) -> Conditioning:
    """A prompt encoded with images [1, 3, H, W], or alone."""
    return [entry(clip.encode_edit([prompt], images) if images else clip.encode([prompt], (0, 0)))]


def fitting(image: Tensor, resolution: int) -> Tensor:
    """The first of some images [B, H, W, C], as [1, 3, h, w] with sides that are multiples of 32."""
    first = image[:1, ..., :3].movedim(-1, 1)
    height, width = first.shape[2:]
    ratio = resolution / (height * width) ** 0.5 if resolution else 1.0
    height, width = (max(round(side * ratio / UNIT), 1) * UNIT for side in (height, width))
    return scaled(first, width, height, "area", "disabled")


@node("QwenImage21Cache", "model/patch", version=3)
def qwen_image21_cache(
    model: Model, device: Literal["auto", "gpu", "cpu", "off"], dtype: Literal["default", "int8", "int4"]
) -> Model:
    """Does nothing: in ComfyUI it caches a part of each step of Qwen-Image 2.1, which is computed again here.

    Args:
        model: The model.
        device: Ignored.
        dtype: Ignored.
    """
    return model
