"""Stable Diffusion 3 and 3.5: Esser et al., arXiv:2403.03206."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.clip import joined, load_clip
from sigmafield.models.diffusers.control import residuals
from sigmafield.models.diffusers.control_transformer import fitting_transformer
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import t5
from sigmafield.models.diffusers.transformer import assemble, checked, patch_of, plain
from sigmafield.models.diffusers.vae import load_vae
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.text.bundled import NONE, Bundled
from sigmafield.models.text.encoder import Modules, TextEncoder
from sigmafield.models.trained import trained_size
from sigmafield.parameterization.families import family

LENGTH = 256
"""Tokens of T5."""


def build_sd3(source: Source) -> Pipeline:
    """Builds the pipeline of a model with an SD3Transformer2DModel."""
    own = family("SD3")
    vae, latent = load_vae(source, own)
    config = checked(source, "SD3Transformer2DModel", in_channels=latent.channels)
    text = NO_TEXT if source.alone else sd3_encoder(source, config.get("joint_attention_dim", 4096))
    transformer = source.module(SD3Transformer2DModel, "transformer")
    config = transformer.config
    patch, side = patch_of(config), config.pos_embed_max_size
    return assemble(
        source, own, steered, transformer, latent, text, vae, patch,
        trained_size(config.sample_size, latent.factor, 128),
        max_side=side and side * patch * latent.factor, controls=fitting_transformer(transformer),
    )  # fmt: skip


def steered(transformer: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of Stable Diffusion 3, with what controls add after its blocks."""
    added = residuals(x, t, cond)
    return plain(transformer, x, t, cond, block_controlnet_hidden_states=added.blocks or None)


def sd3_encoder(source: Source, channels: int) -> TextEncoder:
    """Loads the text encoders of Stable Diffusion 3.

    Its conditionings hold the penultimate hidden states of both CLIPs, joined along the channels and padded with 0 to
    `channels`, followed by T5's tokens, if the model has text_encoder_3 (embeds); and the joined pooled vectors of both
    CLIPs, of which the first one's is not projected (pooled_projections). As in ComfyUI.
    """
    first, second = (load_clip(source, CLIPTextModelWithProjection, number) for number in (1, 2))
    first = replace(first, projected=False)
    modules = {"text_encoder": first.module, "text_encoder_2": second.module}
    embed = None
    if source.where.class_of("text_encoder_3"):
        embed, modules["text_encoder_3"] = t5(source, "text_encoder_3", "tokenizer_3", LENGTH)

    def encode_text(
        modules: Modules,
        prompts: Sequence[str],
        size: tuple[int, int],
        clip_skip: int | None = None,
        bundled: Bundled = NONE,
    ) -> Cond:
        clips, pooled = joined(first.of(modules, bundled), second.of(modules, bundled), prompts, clip_skip)
        short = F.pad(clips, (0, channels - clips.shape[-1]))
        long = [] if embed is None else [embed(modules["text_encoder_3"], prompts)[0]]
        return Cond(torch.cat([short, *long], dim=1), {"pooled_projections": torch.cat(pooled, dim=-1)})

    return TextEncoder(encode_text, modules=modules)
