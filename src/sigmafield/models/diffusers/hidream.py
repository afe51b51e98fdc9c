"""HiDream-I1, a mixture of experts whose blocks read a layer each of Llama: arXiv:2505.22705."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.transformers.transformer_hidream_image import HiDreamImageTransformer2DModel
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModelWithProjection, LlamaForCausalLM

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.clip import Clip, load_clip
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import attended, of_prompts, t5, tokenizer_folder
from sigmafield.models.diffusers.tokenizers import in_turn
from sigmafield.models.diffusers.transformer import assemble, checked, fits
from sigmafield.models.diffusers.vae import load_vae
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.text.bundled import Bundled
from sigmafield.models.text.encoder import Modules, TextEncoder
from sigmafield.models.text.prompt import Vocabulary, text_for
from sigmafield.models.trained import trained_size
from sigmafield.parameterization.families import family

PATCH = 2
LENGTH = 128
"""Tokens of each text encoder."""
LLAMA = "llama_states"
"""Name of the states of Llama's layers [B, layers, tokens, C] among a conditioning's further inputs."""


def build_hidream(source: Source) -> Pipeline:
    """Builds the pipeline of a model with a HiDreamImageTransformer2DModel."""
    own = family("HiDream")
    vae, latent = load_vae(source, own)
    checked(source, "HiDreamImageTransformer2DModel", in_channels=latent.channels, patch_size=PATCH)
    text = NO_TEXT if source.alone else hidream_encoder(source)
    transformer = source.module(HiDreamImageTransformer2DModel, "transformer")
    return assemble(
        source, own, mixed, transformer, latent, text, vae, PATCH, trained_size(None, latent.factor, 128),
    )  # fmt: skip


def hidream_encoder(source: Source) -> TextEncoder:
    """Loads the text encoders of HiDream: the pooled vectors of two CLIPs, T5's states, and all those of Llama."""
    clips = [load_clip(source, CLIPTextModelWithProjection, number) for number in (1, 2)]
    first, second = (replace(clip, vocabulary=shortened(clip)) for clip in clips)
    embed, text = t5(source, "text_encoder_3", "tokenizer_3", LENGTH, attended)
    llama = source.module(LlamaForCausalLM, "text_encoder_4")
    words = AutoTokenizer.from_pretrained(tokenizer_folder(source, "tokenizer_4"), local_files_only=True)
    words.pad_token = words.eos_token  # so it is not one that models share
    read = in_turn(words)

    @of_prompts
    def encode_text(modules: Modules, prompts: Sequence[str], bundled: Bundled) -> Cond:
        pooled = [pooled_of(clip.of(modules, bundled), prompts) for clip in (first, second)]
        texts = [text_for(prompt, "llama") for prompt in prompts]
        batch = read(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
        batch = batch.to(source.device)
        states = modules["text_encoder_4"].model(
            batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True, use_cache=False
        ).hidden_states[1:]  # fmt: skip
        more = {"pooled_projections": torch.cat(pooled, dim=-1), LLAMA: torch.stack(states, dim=1)}
        return Cond(embed(modules["text_encoder_3"], prompts)[0], more)

    modules = {"text_encoder": first.module, "text_encoder_2": second.module}
    return TextEncoder(encode_text, modules=modules | {"text_encoder_3": text, "text_encoder_4": llama})


def shortened(clip: Clip) -> Vocabulary:
    """How the input of a CLIP is made that was trained for longer prompts than these."""
    return replace(clip.vocabulary, length=min(clip.vocabulary.length, LENGTH))


def pooled_of(clip: Clip, prompts: Sequence[str]) -> Tensor:
    """The projected vector of the first tokens of each prompt."""
    pooled = clip.encode(clip.rows(prompts), -1)[1]
    assert pooled is not None
    return pooled


def mixed(transformer: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of HiDream, which predicts x0 − ξ.

    Raises:
        ValueError: The latent is not square, and larger than the network can mark.
    """
    fits(x, PATCH)
    rows, columns = (side // PATCH for side in x.shape[2:])
    if rows != columns and rows * columns > transformer.max_seq:
        raise ValueError(
            f"HiDream draws at most {transformer.max_seq} tokens where an image is not square; got {rows}x{columns}"
        )
    dtype = transformer.dtype
    return -transformer(
        x.to(dtype),
        timesteps=t,
        encoder_hidden_states_t5=cond.embeds.to(dtype),
        encoder_hidden_states_llama3=cond.extra[LLAMA].to(dtype).transpose(0, 1),
        pooled_embeds=cond.extra["pooled_projections"].to(dtype),
    ).sample.float()
