"""Lumina-Image 2: Qin et al., arXiv:2503.21758."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_lumina2 import Lumina2Transformer2DModel
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import gemma
from sigmafield.models.diffusers.transformer import assemble, checked, patch_of, plain
from sigmafield.models.diffusers.vae import load_vae
from sigmafield.models.trained import trained_size
from sigmafield.parameterization.families import family

LENGTH = 256
"""Tokens of the text encoder."""


def build_lumina(source: Source) -> Pipeline:
    """Builds the pipeline of a model with a Lumina2Transformer2DModel."""
    own = family("Lumina2")
    vae, latent = load_vae(source, own)
    checked(source, "Lumina2Transformer2DModel", in_channels=latent.channels)
    text = gemma(source, LENGTH)
    transformer = source.module(Lumina2Transformer2DModel, "transformer")
    config = transformer.config
    patch = patch_of(config)
    return assemble(
        source, own, reversed_time, transformer, latent, text, vae, patch,
        trained_size(config.sample_size, latent.factor, 128),
        max_side=min(config.axes_lens[1:]) * patch * latent.factor,
    )  # fmt: skip


def reversed_time(transformer: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of Lumina, whose time is 1 for clean images and which predicts x0 − ξ."""
    return -plain(transformer, x, 1 - t, cond)
