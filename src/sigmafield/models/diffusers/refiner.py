"""The text encoder of Stable Diffusion XL's refiner, which is also given an aesthetic score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import CLIPTextModelWithProjection

from sigmafield.core.conditioning import Cond
from sigmafield.models.diffusers.clip import load_clip
from sigmafield.models.diffusers.source import Source
from sigmafield.models.text.bundled import NONE, Bundled
from sigmafield.models.text.encoder import EncodeText, Modules, TextEncoder
from sigmafield.models.text.prompt import check_layer

SCORE, NEGATIVE_SCORE = 6.0, 2.5
"""Aesthetic scores of prompts and negative prompts."""


def refiner_encoder(source: Source, config: Mapping[str, Any]) -> TextEncoder:
    """Loads the text encoder of SDXL's refiner. Podell et al., arXiv:2307.01952.

    Its conditionings hold the penultimate hidden states (embeds), the pooled vector (text_embeds), and original size,
    crop offset 0 and aesthetic score (time_ids).

    Args:
        source: Where the model comes from.
        config: The UNet's config.

    Raises:
        ValueError: If the UNet is not a refiner's.
    """
    clip = load_clip(source, CLIPTextModelWithProjection, 2)
    numbers = config["projection_class_embeddings_input_dim"] - clip.module.config.projection_dim
    if numbers != 5 * config["addition_time_embed_dim"]:
        raise ValueError(f"{source.where.path}: text_encoder is missing, and the network is not a refiner's")

    def encoder(score: float) -> EncodeText:
        def encode(
            modules: Modules,
            prompts: Sequence[str],
            size: tuple[int, int],
            clip_skip: int | None = None,
            bundled: Bundled = NONE,
        ) -> Cond:
            check_layer(clip_skip, clip.layers)
            own = clip.of(modules, bundled)
            embeds, pooled = own.encode(own.rows(prompts), -2 if clip_skip is None else clip_skip)
            assert pooled is not None
            ids = torch.tensor([[*size, 0, 0, score]], dtype=torch.float32, device=source.device)
            return Cond(embeds, {"text_embeds": pooled, "time_ids": ids.repeat(len(prompts), 1)})

        return encode

    return TextEncoder(encoder(SCORE), encoder(NEGATIVE_SCORE), {"text_encoder_2": clip.module})
