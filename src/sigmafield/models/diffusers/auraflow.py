"""AuraFlow, of fal."""

from __future__ import annotations

import math

from diffusers.models.transformers.auraflow_transformer_2d import AuraFlowTransformer2DModel

from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import umt5
from sigmafield.models.diffusers.transformer import assemble, checked, patch_of, plain
from sigmafield.models.diffusers.vae import load_vae
from sigmafield.models.vae.codec import sides

LENGTH = 256
"""Tokens of the text encoder."""


def build_auraflow(source: Source) -> Pipeline:
    """The pipeline of a directory with an AuraFlowTransformer2DModel."""
    vae, latent, codecs = load_vae(source)
    checked(source, "AuraFlowTransformer2DModel", in_channels=latent.channels)
    encode_text, encoders = umt5(source, LENGTH)
    transformer = source.module(AuraFlowTransformer2DModel, "transformer")
    config = transformer.config
    patch = patch_of(config)
    return assemble(
        source, 1.0, latent, codecs, encode_text, plain(transformer), patch,
        sides(config.sample_size, latent.factor, 64),
        {"transformer": transformer, "vae": vae, **encoders},
        max_side=math.isqrt(config.pos_embed_max_size) * patch * latent.factor,
    )  # fmt: skip
