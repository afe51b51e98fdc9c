"""Nodes that read prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from sigmafield.comfyui.conditioning import changed, entry
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Clip, Conditioning
from sigmafield.comfyui.widgets import Distilled, Pixels, Prompt
from sigmafield.core.annotations import Range
from sigmafield.core.conditioning import Cond
from sigmafield.models.text.bundled import NONE, Bundled
from sigmafield.models.text.encoder import EncodeText, Modules
from sigmafield.models.text.prompt import Parts

Tokens = Annotated[int, Range(0, 10000), Input(step=1)]
SYSTEM = {
    "superior": "You are an assistant designed to generate superior images with the superior degree of image-text "
    "alignment based on textual prompts or user prompts.",
    "alignment": "You are an assistant designed to generate high-quality images with the highest degree of image-text "
    "alignment based on textual prompts.",
}
"""The system prompts that Lumina 2 was trained with. Qin et al., arXiv:2503.21758."""


def at_layer(encode: EncodeText, layer: int) -> EncodeText:
    """An encoder that takes hidden states from a layer unless it is given another one."""

    def read(
        modules: Modules,
        prompts: Sequence[str],
        size: tuple[int, int],
        clip_skip: int | None = None,
        bundled: Bundled = NONE,
    ) -> Cond:
        return encode(modules, prompts, size, layer if clip_skip is None else clip_skip, bundled)

    return read


@node("CLIPTextEncode", "conditioning", title="CLIP Text Encode (Prompt)")
def clip_text_encode(text: Prompt, clip: Clip) -> Conditioning:
    """Encodes a prompt.

    Args:
        text: The prompt, with weights in parentheses: (red:1.2).
        clip: The text encoder.
    """
    return [entry(clip.encode_negative([text], (0, 0)))]


@node("CLIPSetLastLayer", "conditioning", title="CLIP Set Last Layer")
def clip_set_last_layer(clip: Clip, stop_at_clip_layer: Annotated[int, Range(-24, -1), Input(step=1)] = -1) -> Clip:
    """Takes hidden states from another layer of CLIP.

    Args:
        clip: The text encoder.
        stop_at_clip_layer: The layer: -1 = the last.
    """
    return replace(
        clip,
        positive=at_layer(clip.positive, stop_at_clip_layer),
        negative=clip.negative and at_layer(clip.negative, stop_at_clip_layer),
    )


@node("CLIPTextEncodeSDXL", "advanced/conditioning")
def clip_text_encode_sdxl(
    clip: Clip,
    width: Pixels = 1024,
    height: Pixels = 1024,
    crop_w: Pixels = 0,
    crop_h: Pixels = 0,
    target_width: Pixels = 1024,
    target_height: Pixels = 1024,
    *,
    text_g: Prompt,
    text_l: Prompt,
) -> Conditioning:
    """Encodes a prompt for Stable Diffusion XL, with the sizes that it is conditioned on.

    Args:
        clip: The text encoder.
        width: Width of the original image.
        height: Height of the original image.
        crop_w: Pixels that were cut off on the left.
        crop_h: Pixels that were cut off above.
        target_width: Width of the image to draw.
        target_height: Height of the image to draw.
        text_g: The prompt for the larger text encoder.
        text_l: The prompt for the smaller text encoder.
    """
    texts = Parts(text_l, {"clip_g": text_g})
    return changed(
        [entry(clip.encode_negative([texts], (0, 0)))], width=width, height=height, crop_w=crop_w, crop_h=crop_h,
        target_width=target_width, target_height=target_height,
    )  # fmt: skip


@node("CLIPTextEncodeSDXLRefiner", "advanced/conditioning")
def clip_text_encode_sdxl_refiner(
    ascore: Annotated[float, Range(0.0, 1000.0), Input(step=0.01)] = 6.0,
    width: Pixels = 1024,
    height: Pixels = 1024,
    *,
    text: Prompt,
    clip: Clip,
) -> Conditioning:
    """Encodes a prompt for Stable Diffusion XL's refiner.

    Args:
        ascore: Aesthetic score that it is conditioned on.
        width: Width of the original image.
        height: Height of the original image.
        text: The prompt.
        clip: The text encoder.
    """
    encoded = [entry(clip.encode_negative([text], (0, 0)))]
    return changed(encoded, aesthetic_score=ascore, width=width, height=height)


@node("CLIPTextEncodeHiDream", "advanced/conditioning", version=3)
def clip_text_encode_hidream(clip: Clip, clip_l: Prompt, clip_g: Prompt, t5xxl: Prompt, llama: Prompt) -> Conditioning:
    """Encodes a prompt for HiDream.

    Args:
        clip: The text encoder.
        clip_l: The prompt for the smaller CLIP.
        clip_g: The prompt for the larger CLIP.
        t5xxl: The prompt for T5.
        llama: The prompt for Llama.
    """
    texts = Parts(clip_l, {"clip_g": clip_g, "t5": t5xxl, "llama": llama})
    return [entry(clip.encode([texts], (0, 0)))]


@node("CLIPTextEncodeFlux", "advanced/conditioning/flux")
def clip_text_encode_flux(clip: Clip, clip_l: Prompt, t5xxl: Prompt, guidance: Distilled = 3.5) -> Conditioning:
    """Encodes a prompt for Flux.

    Args:
        clip: The text encoder.
        clip_l: The prompt for CLIP.
        t5xxl: The prompt for T5.
        guidance: Scale of distilled guidance.
    """
    texts = Parts(clip_l, {"t5": t5xxl})
    return changed([entry(clip.encode_negative([texts], (0, 0)))], guidance=guidance)


@node("CLIPTextEncodeSD3", "advanced/conditioning", version=3)
def clip_text_encode_sd3(
    clip: Clip, clip_l: Prompt, clip_g: Prompt, t5xxl: Prompt, empty_padding: Literal["none", "empty_prompt"]
) -> Conditioning:
    """Encodes a prompt for Stable Diffusion 3.

    Args:
        clip: The text encoder.
        clip_l: The prompt for the smaller CLIP.
        clip_g: The prompt for the larger CLIP.
        t5xxl: The prompt for T5.
        empty_padding: What encoders without a prompt are given; "none", which leaves their tokens out, needs a prompt
            for all here.
    """
    if empty_padding == "none" and not (clip_l and clip_g and t5xxl):
        raise ValueError("empty_padding must be 'empty_prompt' where clip_l, clip_g or t5xxl is empty")
    return [entry(clip.encode_negative([Parts(clip_l, {"clip_g": clip_g, "t5": t5xxl})], (0, 0)))]


@node("FluxGuidance", "advanced/conditioning/flux")
def flux_guidance(conditioning: Conditioning, guidance: Distilled = 3.5) -> Conditioning:
    """Sets the scale of distilled guidance.

    Args:
        conditioning: The conditioning.
        guidance: The scale.
    """
    return changed(conditioning, guidance=guidance)


@node("CLIPTextEncodeLumina2", "conditioning", title="CLIP Text Encode for Lumina2", version=3)
def clip_text_encode_lumina2(
    system_prompt: Literal["superior", "alignment"], user_prompt: Prompt, clip: Clip
) -> Conditioning:
    """Encodes a prompt for Lumina 2, after one of its system prompts.

    Args:
        system_prompt: Which system prompt.
        user_prompt: The prompt.
        clip: The text encoder.
    """
    return [entry(clip.encode_negative([f"{SYSTEM[system_prompt]} <Prompt Start> {user_prompt}"], (0, 0)))]


@node("T5TokenizerOptions", "_for_testing/conditioning", version=3, experimental=True)
def t5_tokenizer_options(clip: Clip, min_padding: Tokens = 0, min_length: Tokens = 0) -> Clip:
    """Says how prompts are padded for T5; Chroma's text encoder pads as it was trained, with one token.

    Args:
        clip: The text encoder of Chroma.
        min_padding: Least number of tokens after a prompt, 1.
        min_length: Least number of tokens of all, 0.
    """
    kinds = [type(module).__name__ for module in clip.modules.values()]
    if kinds != ["T5EncoderModel"] or (min_padding, min_length) != (1, 0):
        raise ValueError(
            f"min_padding {min_padding} and min_length {min_length} of {', '.join(kinds)} are not supported; "
            "supported: 1 and 0, of Chroma's T5"
        )
    return clip
