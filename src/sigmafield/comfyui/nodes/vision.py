"""Nodes of vision encoders and style models."""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from sigmafield.comfyui.context import Context
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sockets import Input, Socket, files
from sigmafield.comfyui.values import Conditioning, Image
from sigmafield.core.annotations import Range
from sigmafield.models.load_parts import load_vision
from sigmafield.models.vision import Redux, Seen, VisionEncoder, load_style

ClipVision = Annotated[VisionEncoder, Socket("CLIP_VISION")]
SeenValue = Annotated[Seen, Socket("CLIP_VISION_OUTPUT")]
StyleModel = Annotated[Redux, Socket("STYLE_MODEL")]


@node("CLIPVisionLoader", "loaders", title="Load CLIP Vision")
def clip_vision_loader(clip_name: Annotated[str, files("clip_vision")], context: Context = Context()) -> ClipVision:
    """Loads a vision encoder.

    Args:
        clip_name: A file in the folder of vision encoders.
        context: Where the folders are.
    """
    return context.loading(load_vision, context.folders.path("clip_vision", clip_name), device=context.device)


@node("CLIPVisionEncode", "conditioning", title="CLIP Vision Encode")
def clip_vision_encode(clip_vision: ClipVision, image: Image, crop: Literal["center", "none"]) -> SeenValue:
    """What a vision encoder sees in images.

    Args:
        clip_vision: The encoder.
        image: The images.
        crop: center: the middle square of each; none: the whole image, stretched.
    """
    return clip_vision.encode(image, crop)


@node("StyleModelLoader", "loaders", title="Load Style Model")
def style_model_loader(
    style_model_name: Annotated[str, files("style_models")], context: Context = Context()
) -> StyleModel:
    """Loads a style model, Flux Redux.

    Args:
        style_model_name: A file in the folder of style models.
        context: Where the folders are.
    """
    path = context.folders.path("style_models", style_model_name)
    return context.loading(load_style, path, device=context.device)


@node("StyleModelApply", "conditioning/style_model", title="Apply Style Model")
def style_model_apply(
    conditioning: Conditioning,
    style_model: StyleModel,
    clip_vision_output: SeenValue,
    strength: Annotated[float, Range(0, 10), Input(step=0.001)] = 1.0,
    *,
    strength_type: Literal["multiply", "attn_bias"],
) -> Conditioning:
    """Adds what a vision encoder sees to prompts: the tokens of the style model, times the strength, after theirs.

    Args:
        conditioning: The prompts.
        style_model: The style model.
        clip_vision_output: What the encoder sees.
        strength: The strength.
        strength_type: multiply; attn_bias, which changes the network's attention, is not supported.
    """
    if strength_type == "attn_bias" and strength != 1:
        raise ValueError("strength_type attn_bias is not supported: choose multiply, or strength 1")
    more = strength * style_model.tokens(clip_vision_output).flatten(0, 1)[None]
    return [
        (torch.cat([tokens, more.to(tokens).expand(len(tokens), -1, -1)], 1), dict(about))
        for tokens, about in conditioning
    ]
