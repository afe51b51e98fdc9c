"""Nodes that read prompts and change conditionings."""

from __future__ import annotations

from typing import Annotated

from sigmafield.comfyui.conditioning import entry
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Clip, Conditioning

Prompt = Annotated[str, Input(multiline=True, dynamic_prompts=True)]


@node("CLIPTextEncode", "conditioning", title="CLIP Text Encode (Prompt)")
def clip_text_encode(text: Prompt, clip: Clip) -> Conditioning:
    """Encodes a prompt.

    Args:
        text: The prompt, with weights in parentheses: (red:1.2).
        clip: The text encoder.
    """
    return [entry(clip.encode_negative([text], (0, 0)))]
