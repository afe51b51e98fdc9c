"""LTX-2, 2.3 and 2.5: arXiv:2601.03233. The video alone; the network also draws sound, which is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import AutoencoderKLLTX2Video
from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from torch import Tensor
from transformers import Gemma3ForConditionalGeneration

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.chat import MASK
from sigmafield.models.diffusers.ltx import RATE, TIMES
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import load_tokenizer, of_prompts
from sigmafield.models.diffusers.tokenizers import in_turn
from sigmafield.models.diffusers.transformer import assemble, checked
from sigmafield.models.diffusers.video_vae import load_ltx_vae
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.text.bundled import Bundled
from sigmafield.models.text.encoder import Modules, TextEncoder
from sigmafield.parameterization.families import family

LENGTH = 1024
"""Tokens of Gemma."""
SIZE, FRAMES = (512, 768), 121
"""Size and frames that are drawn unless others are given."""
FRAME_RATE = 24.0


def build_ltx2(source: Source) -> Pipeline:
    """Builds the pipeline of a model with an LTX2VideoTransformer3DModel, which takes a noise level for each token."""
    own = family("LTXAV")
    vae, latent = load_ltx_vae(source, own, AutoencoderKLLTX2Video)
    checked(source, "LTX2VideoTransformer3DModel", in_channels=latent.channels, patch_size=1, patch_size_t=1)
    text = NO_TEXT if source.alone else ltx2_encoder(source)
    transformer = source.module(LTX2VideoTransformer3DModel, "transformer")
    return assemble(
        source, own, silent, transformer, latent, text, vae, 1, SIZE, sampling=own.sampling(), cfg=4.0, frames=FRAMES,
        tokens=(1, 1, 1),
    )  # fmt: skip


def ltx2_encoder(source: Source) -> TextEncoder:
    """Loads the text encoder of LTX-2: all hidden states of Gemma 3, which a further network makes one of, and a mask.

    Prompts are plain text without weights, cut after `LENGTH` tokens.
    """
    read = in_turn(load_tokenizer(source, "tokenizer", padding_side="left"))
    modules = {
        "text_encoder": source.module(Gemma3ForConditionalGeneration, "text_encoder"),
        "connectors": source.module(LTX2TextConnectors, "connectors"),
    }

    @of_prompts
    def encode_text(modules: Modules, prompts: Sequence[str], bundled: Bundled) -> Cond:
        batch = read(
            [prompt.strip() for prompt in prompts], padding="max_length", max_length=LENGTH, truncation=True,
            return_tensors="pt",
        )  # fmt: skip
        ids, mask = batch.input_ids.to(source.device), batch.attention_mask.to(source.device)
        states = modules["text_encoder"](ids, attention_mask=mask, output_hidden_states=True).hidden_states
        embeds, _, mask = modules["connectors"](torch.stack(states, dim=-1), mask, padding_side="left")
        return Cond(embeds.float(), {MASK: mask, RATE: torch.full((len(prompts),), FRAME_RATE, device=source.device)})

    return TextEncoder(encode_text, modules=modules)


def silent(transformer: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of LTX-2 without what the sound tells the video: each position is a token at its bounds.

    The branch of sound is given one token of 0, and no text.
    """
    config, dtype, rows = transformer.config, transformer.dtype, len(x)
    width = config.caption_channels if config.use_prompt_embeddings else config.audio_cross_attention_dim
    at = transformer.rope.prepare_video_coords(rows, *x.shape[2:], x.device, fps=1.0)
    at[:, 0] /= cond.extra[RATE][:, None, None]
    level = TIMES * t.reshape(rows, -1).amax(1)
    out = transformer(
        x.to(dtype).flatten(2).transpose(1, 2),
        audio_hidden_states=x.new_zeros(rows, 1, config.audio_in_channels, dtype=dtype),
        encoder_hidden_states=cond.embeds.to(dtype),
        audio_encoder_hidden_states=x.new_zeros(rows, 1, width, dtype=dtype),
        timestep=TIMES * t,
        audio_timestep=level,
        sigma=level,
        encoder_attention_mask=cond.extra[MASK],
        audio_num_frames=1,
        video_coords=at,
        isolate_modalities=True,
    ).sample
    return out.transpose(1, 2).unflatten(2, x.shape[2:]).float()
