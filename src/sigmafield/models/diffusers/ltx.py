"""LTX-Video: arXiv:2501.00103."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.chat import MASK
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import masked, of_prompts, t5, unmasked
from sigmafield.models.diffusers.transformer import assemble, checked
from sigmafield.models.diffusers.video_vae import load_ltx_vae
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.text.bundled import Bundled
from sigmafield.models.text.encoder import Modules, TextEncoder
from sigmafield.parameterization.families import family

LENGTH = 128
"""Tokens of T5."""
SIZE, FRAMES = (512, 768), 97
"""Size and frames that are drawn unless others are given."""
RATE, FRAME_RATE = "frame_rate", 25.0
"""Name of the frames per second among a conditioning's further inputs, and how many they are unless others are set."""
STEP = (8, 32, 32)
"""Frames, rows and columns of pixels per latent position."""
NEW_BLOCK = "LTXVideo095DownBlock3D"
"""Kind of the blocks of the VAE's encoder since 0.9.5."""
TIMES = 1000
"""The network's time at pure noise."""


def build_ltx(source: Source) -> Pipeline:
    """Builds the pipeline of a model with an LTXVideoTransformer3DModel, which takes a noise level for each token.

    Since 0.9.5, known by its VAE, the first frame has a time of its own as it has in the VAE, and padding is hidden
    to the text encoder.
    """
    own = family("LTXV")
    vae, latent = load_ltx_vae(source, own, AutoencoderKLLTXVideo)
    checked(source, "LTXVideoTransformer3DModel", in_channels=latent.channels, patch_size=1, patch_size_t=1)
    transformer = source.module(LTXVideoTransformer3DModel, "transformer")
    causal = NEW_BLOCK in source.config("vae", "AutoencoderKLLTXVideo").get("down_block_types", ())
    alone = source.alone or source.where.class_of("text_encoder") is None
    text = NO_TEXT if alone else ltx_encoder(source, causal)
    return assemble(
        source, own, partial(in_tokens, causal=causal), transformer, latent, text, vae, 1, SIZE,
        sampling=own.sampling(), cfg=3.0, frames=FRAMES, tokens=(1, 1, 1),
    )  # fmt: skip


def ltx_encoder(source: Source, hidden: bool = True) -> TextEncoder:
    """Loads the text encoder of LTX-Video: T5's hidden states of all tokens, a mask of padding, and a frame rate.

    Args:
        source: Where the model comes from.
        hidden: Whether padding is hidden to T5.
    """
    embed, text = t5(source, "text_encoder", "tokenizer", LENGTH, masked if hidden else unmasked)

    @of_prompts
    def encode_text(modules: Modules, prompts: Sequence[str], bundled: Bundled) -> Cond:
        embeds, mask = embed(modules["text_encoder"], prompts)
        assert mask is not None
        return Cond(embeds, {MASK: mask, RATE: torch.full((len(prompts),), FRAME_RATE, device=source.device)})

    return TextEncoder(encode_text, modules={"text_encoder": text})


def in_tokens(transformer: Any, x: Tensor, t: Tensor, cond: Cond, causal: bool) -> Tensor:
    """The network of LTX-Video: each position is a token, at (seconds, row, column).

    Args:
        transformer: The module.
        x: Noisy latents.
        t: Time of each row, or of each token, from 0 to 1.
        cond: The conditioning, one row per latent.
        causal: Whether the first frame has a time of its own.
    """
    out = transformer(
        x.to(transformer.dtype).flatten(2).transpose(1, 2),
        encoder_hidden_states=cond.embeds.to(transformer.dtype),
        timestep=TIMES * t,
        encoder_attention_mask=cond.extra[MASK],
        video_coords=positions(x, cond.extra[RATE], causal),
    ).sample
    return out.transpose(1, 2).unflatten(2, x.shape[2:]).float()


def positions(x: Tensor, rate: Tensor, causal: bool) -> Tensor:
    """Gives (seconds, row, column) of each latent position, in pixels: [B, 3, tokens]."""
    at = torch.cartesian_prod(*(step * torch.arange(side).float() for step, side in zip(STEP, x.shape[2:]))).T
    if causal:
        at[0] = (at[0] + 1 - STEP[0]).clamp(min=0)
    rows = at.to(x.device).repeat(len(x), 1, 1)
    rows[:, 0] /= rate[:, None]
    return rows
