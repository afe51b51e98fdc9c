"""Wan 2.1, text to video: arXiv:2503.20314."""

from __future__ import annotations

from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import umt5, unescaped
from sigmafield.models.diffusers.transformer import assemble, checked, patch_of, plain
from sigmafield.models.diffusers.vae import load_video_vae
from sigmafield.parameterization.families import family

LENGTH = 512
"""Tokens of the text encoder."""

SIZE, FRAMES = (480, 832), 81
"""Size and frames that Wan was trained for; its config does not say them."""


def build_wan(source: Source) -> Pipeline:
    """Builds the pipeline of a model with a WanTransformer3DModel."""
    own = family("WAN21_T2V")
    for key in ("transformer_2", "boundary_ratio", "expand_timesteps"):
        if source.where.class_of(key) or source.where.index.get(key) not in (None, False, [None, None]):
            raise ValueError(f"{source.where.path}: {key} (Wan 2.2) is not supported; supported: Wan 2.1")
    vae, latent = load_video_vae(source, own)
    checked(source, "WanTransformer3DModel", in_channels=latent.channels, image_dim=None)
    text = umt5(source, LENGTH, unescaped)
    transformer = source.module(WanTransformer3DModel, "transformer")
    patch = patch_of(transformer.config)
    return assemble(
        source, own, plain, transformer, latent, text, vae, patch, SIZE,
        frames=FRAMES, max_side=transformer.config.rope_max_seq_len * patch * latent.factor,
    )  # fmt: skip
