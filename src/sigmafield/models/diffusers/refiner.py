"""Text of Stable Diffusion XL's refiner: one encoder, and how beautiful the picture shall be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import CLIPTextModelWithProjection

from sigmafield.models.diffusers.clip import load_tokenizer
from sigmafield.models.diffusers.source import Source
from sigmafield.models.pipeline import EncodeText
from sigmafield.types import Cond

SCORE, NEGATIVE_SCORE = 6.0, 2.5
"""Aesthetic scores that prompts and negative prompts ask for."""


def refiner_encoder(source: Source) -> tuple[EncodeText, EncodeText, dict[str, Any]]:
    """`Pipeline.encode_text`, `.encode_negative` and `.modules` of SDXL's refiner. arXiv:2307.01952, appendix D.

    embeds: the last hidden states but one of the second encoder; extra: its pooled vector (text_embeds); original
    size, crop and aesthetic score (time_ids), with no crop.
    """
    text = source.module(CLIPTextModelWithProjection, "text_encoder_2")
    ids = load_tokenizer(source, "tokenizer_2", text)

    def scored(prompts: Sequence[str], size: tuple[int, int], score: float) -> Cond:
        out = text(ids(prompts), output_hidden_states=True)
        numbers = torch.tensor([[*size, 0, 0, score]], dtype=torch.float32, device=source.device)
        extra = {"text_embeds": out.text_embeds.float(), "time_ids": numbers.repeat(len(prompts), 1)}
        return Cond(out.hidden_states[-2].float(), extra)

    def encode_text(prompts: Sequence[str], size: tuple[int, int]) -> Cond:
        return scored(prompts, size, SCORE)

    def encode_negative(prompts: Sequence[str], size: tuple[int, int]) -> Cond:
        return scored(prompts, size, NEGATIVE_SCORE)

    return encode_text, encode_negative, {"text_encoder_2": text}
