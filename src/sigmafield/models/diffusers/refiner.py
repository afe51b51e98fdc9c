"""Text of Stable Diffusion XL's refiner: one encoder, and how beautiful the picture shall be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import CLIPTextModelWithProjection

from sigmafield.models.diffusers.clip import load_tokenizer
from sigmafield.models.diffusers.source import Source
from sigmafield.models.pipeline import EncodeText
from sigmafield.types import Cond

SCORE, NEGATIVE_SCORE = 6.0, 2.5
"""Aesthetic scores that prompts and negative prompts ask for."""


def refiner_encoder(source: Source, config: Mapping[str, Any]) -> tuple[EncodeText, EncodeText, dict[str, Any]]:
    """`Pipeline.encode_text`, `.encode_negative` and `.modules` of SDXL's refiner. Podell et al., arXiv:2307.01952.

    embeds: the last hidden states but one of the second encoder; extra: its pooled vector (text_embeds); original
    size, crop and aesthetic score (time_ids), with no crop. config: the UNet's; ValueError if it is no refiner's.
    """
    text = source.module(CLIPTextModelWithProjection, "text_encoder_2")
    ids = load_tokenizer(source, "tokenizer_2", text)
    numbers = config["projection_class_embeddings_input_dim"] - text.config.projection_dim
    if numbers != 5 * config["addition_time_embed_dim"]:
        raise ValueError(f"{source.where.path}: text_encoder is missing, which only a refiner's network does without")

    def encoder(score: float) -> EncodeText:
        def encode(prompts: Sequence[str], size: tuple[int, int]) -> Cond:
            out = text(ids(prompts), output_hidden_states=True)
            told = torch.tensor([[*size, 0, 0, score]], dtype=torch.float32, device=source.device)
            extra = {"text_embeds": out.text_embeds.float(), "time_ids": told.repeat(len(prompts), 1)}
            return Cond(out.hidden_states[-2].float(), extra)

        return encode

    return encoder(SCORE), encoder(NEGATIVE_SCORE), {"text_encoder_2": text}
