"""AuraFlow, of fal."""

from __future__ import annotations

import math

from diffusers.models.transformers.auraflow_transformer_2d import AuraFlowTransformer2DModel

from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import umt5
from sigmafield.models.diffusers.transformer import assemble, checked, patch_of, plain
from sigmafield.models.diffusers.vae import load_vae
from sigmafield.models.trained import trained_size
from sigmafield.parameterization.families import family

LENGTH = 256
"""Tokens of the text encoder."""


def build_auraflow(source: Source) -> Pipeline:
    """Builds the pipeline of a model with an AuraFlowTransformer2DModel."""
    own = family("AuraFlow")
    vae, latent = load_vae(source, own)
    checked(source, "AuraFlowTransformer2DModel", in_channels=latent.channels)
    text = umt5(source, LENGTH)
    transformer = source.module(AuraFlowTransformer2DModel, "transformer")
    config = transformer.config
    patch = patch_of(config)
    return assemble(
        source, own, plain, transformer, latent, text, vae, patch,
        trained_size(config.sample_size, latent.factor, 64),
        max_side=math.isqrt(config.pos_embed_max_size) * patch * latent.factor,
    )  # fmt: skip
