"""Chroma 1, of Lodestone Rock: Flux schnell without its pooled vector, whose modulations a small network gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from diffusers.models.transformers.transformer_chroma import ChromaTransformer2DModel
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.chat import MASK
from sigmafield.models.diffusers.flux_tokens import PATCH, latents_of, patch_positions, text_positions, tokens_of
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import of_prompts, t5, with_mask
from sigmafield.models.diffusers.transformer import assemble, checked, fits
from sigmafield.models.diffusers.vae import load_vae
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.text.bundled import Bundled
from sigmafield.models.text.encoder import Modules, TextEncoder
from sigmafield.models.trained import trained_size
from sigmafield.parameterization.families import family

LENGTH = 512
"""Tokens of T5."""


def build_chroma(source: Source) -> Pipeline:
    """Builds the pipeline of a model with a ChromaTransformer2DModel."""
    own = family("Chroma")
    vae, latent = load_vae(source, own)
    checked(source, "ChromaTransformer2DModel", in_channels=latent.channels * PATCH**2, patch_size=1)
    text = NO_TEXT if source.alone else chroma_encoder(source)
    transformer = source.module(ChromaTransformer2DModel, "transformer")
    size = trained_size(None, latent.factor, 128)
    return assemble(source, own, packed, transformer, latent, text, vae, PATCH, size, cfg=4.0)


def chroma_encoder(source: Source) -> TextEncoder:
    """Loads the text encoder of Chroma: T5's hidden states, and a mask of the prompt and the first token of padding."""
    embed, text = t5(source, "text_encoder", "tokenizer", LENGTH, with_mask)

    @of_prompts
    def encode_text(modules: Modules, prompts: Sequence[str], bundled: Bundled) -> Cond:
        embeds, mask = embed(modules["text_encoder"], prompts)
        assert mask is not None
        longest = int(mask.sum(1).max())
        return Cond(embeds[:, :longest], {MASK: mask[:, :longest]})

    return TextEncoder(encode_text, modules={"text_encoder": text})


def packed(transformer: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of Chroma: tokens as Flux has them, and, where texts have padding, a mask over text and image."""
    fits(x, PATCH)
    rows, columns = (side // PATCH for side in x.shape[2:])
    mask = cond.extra[MASK].bool()
    out = transformer(
        tokens_of(x.to(transformer.dtype)),
        encoder_hidden_states=cond.embeds.to(transformer.dtype),
        timestep=t,
        img_ids=patch_positions(rows, columns, x.device),
        txt_ids=text_positions(cond.embeds),
        attention_mask=None if mask.all() else F.pad(mask, (0, rows * columns), value=True),
    ).sample
    return latents_of(out, rows, columns).float()
