"""Z-Image, base and Turbo: arXiv:2511.22699."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from torch import Tensor
from transformers import Qwen3ForCausalLM, Qwen3Model

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.chat import QWEN, Chat, chat_encoder, load_language_model
from sigmafield.models.diffusers.control import residuals
from sigmafield.models.diffusers.control_transformer import fitting_transformer, without_padding
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.transformer import assemble, checked, fits
from sigmafield.models.diffusers.vae import load_vae
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.text.encoder import TextEncoder
from sigmafield.models.trained import trained_size
from sigmafield.parameterization.families import family

PATCH = 2
LENGTH = 512
"""Tokens of the text encoder, with the words around the prompt."""


def build_z_image(source: Source) -> Pipeline:
    """Builds the pipeline of a model with a ZImageTransformer2DModel."""
    own = family("ZImage")
    vae, latent = load_vae(source, own)
    checked(source, "ZImageTransformer2DModel", in_channels=latent.channels, siglip_feat_dim=None)
    text = NO_TEXT if source.alone else z_image_encoder(source)
    transformer = source.module(ZImageTransformer2DModel, "transformer")
    return assemble(
        source, own, in_lists, transformer, latent, text, vae, PATCH, trained_size(None, latent.factor, 128),
        max_side=min(transformer.config.axes_lens[1:]) * PATCH * latent.factor,
        controls=fitting_transformer(transformer),
    )  # fmt: skip


def z_image_encoder(source: Source) -> TextEncoder:
    """Loads the text encoder of Z-Image: Qwen 3's penultimate hidden states of all tokens, and a mask."""
    module = load_language_model(source, Qwen3Model, Qwen3ForCausalLM)
    return chat_encoder(source, module, Chat(QWEN, LENGTH, layers=(-2,)), lambda rows: {})


def in_lists(transformer: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of Z-Image, whose time is 1 for clean images and which predicts x0 − ξ; texts have no padding."""
    fits(x, PATCH)
    texts = [text.to(transformer.dtype) for text in without_padding(cond)]
    added = {
        i: each.to(transformer.dtype) for i, each in enumerate(residuals(x, t, cond).blocks) if each.ndim
    }  # fmt: skip
    out = transformer(
        list(x.to(transformer.dtype)[:, :, None]), 1 - t, texts, controlnet_block_samples=added or None
    ).sample  # fmt: skip
    return -torch.stack(list(out))[:, :, 0].float()
