"""Text of Stable Diffusion XL's refiner: one encoder, and how beautiful the picture shall be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import CLIPTextModelWithProjection

from sigmafield.models.diffusers.clip import load_clip
from sigmafield.models.diffusers.source import Source
from sigmafield.models.pipeline import EncodeText
from sigmafield.models.prompt import check_layer
from sigmafield.types import Cond

SCORE, NEGATIVE_SCORE = 6.0, 2.5
"""Aesthetic scores that prompts and negative prompts ask for."""


def refiner_encoder(source: Source) -> tuple[EncodeText, EncodeText, dict[str, Any]]:
    """`Pipeline.encode_text`, `.encode_negative` and `.modules` of SDXL's refiner. arXiv:2307.01952, appendix D.

    embeds: the last hidden states but one of the second encoder; extra: its pooled vector (text_embeds); original
    size, crop and aesthetic score (time_ids), with no crop.
    """
    clip = load_clip(source, CLIPTextModelWithProjection, 2)

    def scored(prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None, score: float) -> Cond:
        check_layer(clip_skip, clip.layers)
        embeds, pooled = clip.encode(clip.rows(prompts), -2 if clip_skip is None else clip_skip)
        assert pooled is not None
        numbers = torch.tensor([[*size, 0, 0, score]], dtype=torch.float32, device=source.device)
        extra = {"text_embeds": pooled, "time_ids": numbers.repeat(len(prompts), 1)}
        return Cond(embeds, extra)

    def encode_text(prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond:
        return scored(prompts, size, clip_skip, SCORE)

    def encode_negative(prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond:
        return scored(prompts, size, clip_skip, NEGATIVE_SCORE)

    return encode_text, encode_negative, {"text_encoder_2": clip.module}
