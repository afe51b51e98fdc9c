"""Wan 2.1 and 2.2, text to video and image to video: arXiv:2503.20314."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import umt5, unescaped
from sigmafield.models.diffusers.transformer import assemble, checked, patch_of, plain
from sigmafield.models.diffusers.vae import load_video_vae
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.network_call import rows
from sigmafield.models.text.encoder import TextEncoder
from sigmafield.parameterization.families import family

LENGTH = 512
"""Tokens of the text encoder."""

SIZE, FRAMES = (480, 832), 81
"""Size and frames that Wan was trained for; its config does not say them."""
FINE_SIZE, FINE_FRAMES = (704, 1280), 121
"""Those of Wan 2.2 5B, whose VAE is coarser in space."""
SHOWN = 4
"""Channels of a network of images to video that say which frames it is shown; the latent of those frames follows."""
FINE_CHANNELS = 48
"""Channels of its latents, by which its file is known."""


class Experts(nn.Module):
    """Wan 2.2 14B's two networks: one for noise levels above a boundary, one for those below.

    Args:
        high: For timesteps of at least the boundary.
        low: For the others.
        boundary: A timestep, 0 … 1000.
    """

    def __init__(self, high: WanTransformer3DModel, low: WanTransformer3DModel, boundary: float) -> None:
        super().__init__()
        self.high, self.low, self.boundary = high, low, boundary

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.high.dtype


def build_wan(source: Source) -> Pipeline:
    """Builds the pipeline of a model with one WanTransformer3DModel, or two for different noise levels.

    With expand_timesteps, Wan 2.2 5B, the network takes a noise level for each token, and so any σ-field at once.
    """
    channels = source.config("transformer", "WanTransformer3DModel").get("in_channels")
    fine = bool(source.where.index.get("expand_timesteps")) or channels == FINE_CHANNELS
    own = family("WAN22_T2V" if fine else "WAN21_T2V")
    vae, latent = load_video_vae(source, own)
    wide = latent.channels + SHOWN + latent.channels  # image to video
    seen = wide if channels == wide else latent.channels
    checked(source, "WanTransformer3DModel", in_channels=seen, out_channels=latent.channels)
    text = NO_TEXT if source.alone else wan_encoder(source)
    network: Any = source.module(WanTransformer3DModel, "transformer")
    config, forward = network.config, one_network
    if source.where.class_of("transformer_2"):
        low = source.module(WanTransformer3DModel, "transformer_2")
        network, forward = Experts(network, low, 1000 * boundary_of(source)), by_level
    patch = patch_of(config)
    return assemble(
        source, own, forward, network, latent, text, vae, patch, FINE_SIZE if fine else SIZE,
        frames=FINE_FRAMES if fine else FRAMES, max_side=config.rope_max_seq_len * patch * latent.factor,
        tokens=tuple(config.patch_size) if fine else None, concat=seen - latent.channels,
    )  # fmt: skip


def wan_encoder(source: Source) -> TextEncoder:
    """Loads the text encoder of Wan: UMT5's hidden states, 0 for padding."""
    return umt5(source, LENGTH, unescaped)


def boundary_of(source: Source) -> float:
    """The noise level that divides two networks; raises ValueError where the model does not say it."""
    boundary = source.where.index.get("boundary_ratio")
    if not isinstance(boundary, (int, float)):
        raise ValueError(f"{source.where.path}: transformer_2 needs a boundary_ratio; got {boundary!r}")
    return float(boundary)


def one_network(transformer: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """One network of Wan; of those of images to video, 2.1's are also given what a vision encoder sees."""
    blind = transformer.config.image_dim is None
    return plain(transformer, x, t, replace(cond, extra={}) if blind else cond)


def by_level(experts: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of Wan 2.2 14B: each row is asked of the network for its level."""
    high = t >= experts.boundary
    if high.all():
        return one_network(experts.high, x, t, cond)
    if not high.any():
        return one_network(experts.low, x, t, cond)
    out = torch.empty_like(x)
    for k, above in enumerate(high.tolist()):
        one = slice(k, k + 1)
        out[one] = one_network(experts.high if above else experts.low, x[one], t[one], rows(cond, one))
    return out
