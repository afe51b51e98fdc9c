"""Wan VACE, which is steered by a video, a mask and reference images: arXiv:2503.07598."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.transformer import assemble, checked, patch_of, plain
from sigmafield.models.diffusers.vae import load_video_vae
from sigmafield.models.diffusers.wan import FRAMES, SIZE, networks, wan_encoder
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.vace import STRENGTH
from sigmafield.parameterization.families import family


def build_vace(source: Source) -> Pipeline:
    """Builds the pipeline of a model with one WanVACETransformer3DModel, or two for different noise levels."""
    own = family("WAN21_Vace")
    vae, latent = load_video_vae(source, own)
    shown = 2 * latent.channels + latent.factor**2
    checked(source, "WanVACETransformer3DModel", in_channels=latent.channels, vace_in_channels=shown)
    text = NO_TEXT if source.alone else wan_encoder(source)
    module, config, forward = networks(source, WanVACETransformer3DModel, steered)
    patch = patch_of(config)
    return assemble(
        source, own, forward, module, latent, text, vae, patch, SIZE, frames=FRAMES, concat=shown,
        max_side=config.rope_max_seq_len * patch * latent.factor,
    )  # fmt: skip


def steered(transformer: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of VACE: the control in `concat` goes through blocks of its own, with a strength for each row."""
    assert cond.concat is not None
    strength = cond.extra.get(STRENGTH, x.new_ones(len(x))).to(transformer.dtype)
    layers = len(transformer.config.vace_layers)
    return plain(
        transformer, x, t, replace(cond, concat=None, extra={}),
        control_hidden_states=cond.concat.to(transformer.dtype),
        control_hidden_states_scale=strength.reshape(1, -1, 1, 1).expand(layers, -1, -1, -1),
    )  # fmt: skip
