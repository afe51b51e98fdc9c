"""Text of Stable Diffusion XL's refiner: one encoder, and how beautiful the image shall be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import CLIPTextModelWithProjection

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import EncodeText, TextEncoder
from sigmafield.models.diffusers.clip import load_clip
from sigmafield.models.diffusers.source import Source
from sigmafield.models.text.prompt import check_layer

SCORE, NEGATIVE_SCORE = 6.0, 2.5
"""Aesthetic scores that prompts and negative prompts ask for."""


def refiner_encoder(source: Source, config: Mapping[str, Any]) -> TextEncoder:
    """`Pipeline.encode_text`, `.encode_negative` and `.modules` of SDXL's refiner. Podell et al., arXiv:2307.01952.

    embeds: the last hidden states but one of the second encoder; extra: its pooled vector (text_embeds); original
    size, crop and aesthetic score (time_ids), with no crop. config: the UNet's; ValueError if it is no refiner's.
    """
    clip = load_clip(source, CLIPTextModelWithProjection, 2)
    numbers = config["projection_class_embeddings_input_dim"] - clip.module.config.projection_dim
    if numbers != 5 * config["addition_time_embed_dim"]:
        raise ValueError(f"{source.where.path}: text_encoder is missing, which only a refiner's network does without")

    def encoder(score: float) -> EncodeText:
        def encode(prompts: Sequence[str], size: tuple[int, int], clip_skip: int | None = None) -> Cond:
            check_layer(clip_skip, clip.layers)
            embeds, pooled = clip.encode(clip.rows(prompts), -2 if clip_skip is None else clip_skip)
            assert pooled is not None
            told = torch.tensor([[*size, 0, 0, score]], dtype=torch.float32, device=source.device)
            return Cond(embeds, {"text_embeds": pooled, "time_ids": told.repeat(len(prompts), 1)})

        return encode

    return TextEncoder(encoder(SCORE), encoder(NEGATIVE_SCORE), {"text_encoder_2": clip.module})
