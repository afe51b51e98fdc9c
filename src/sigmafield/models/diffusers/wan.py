"""Wan 2.1 and 2.2, text to video, image to video and Fun-Control: arXiv:2503.20314."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import umt5, unescaped
from sigmafield.models.diffusers.transformer import assemble, checked, patch_of, plain
from sigmafield.models.diffusers.vae import load_video_vae
from sigmafield.models.diffusers.wan_fun import WanFunTransformer3DModel, behind_image, with_image
from sigmafield.models.diffusion_model import Forward
from sigmafield.models.experts import Experts
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.network_call import rows
from sigmafield.models.references import references, without_references
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
KINDS = {kind.__name__: kind for kind in (WanTransformer3DModel, WanFunTransformer3DModel)}
"""Classes of the network."""


def build_wan(source: Source) -> Pipeline:
    """Builds the pipeline of a model with one WanTransformer3DModel, or two for different noise levels.

    With expand_timesteps, Wan 2.2 5B, the network takes a noise level for each token, and so any σ-field at once.
    """
    kind = KINDS[str(source.where.class_of("transformer"))]
    config = source.config("transformer", kind.__name__)
    channels, out = config.get("in_channels"), config.get("out_channels")
    fine = bool(source.where.index.get("expand_timesteps")) or out == FINE_CHANNELS
    own = family("WAN22_T2V" if fine else "WAN21_T2V")
    vae, latent = load_video_vae(source, own)
    seen = next((more for more in shown_to(latent.channels) if channels == latent.channels + more), 0)
    checked(source, kind.__name__, in_channels=latent.channels + seen, out_channels=latent.channels)
    text = NO_TEXT if source.alone else wan_encoder(source)
    module, config, forward = networks(source, kind, one_network)
    patch = patch_of(config)
    return assemble(
        source, own, forward, module, latent, text, vae, patch, FINE_SIZE if fine else SIZE,
        frames=FINE_FRAMES if fine else FRAMES, max_side=config.rope_max_seq_len * patch * latent.factor,
        tokens=tuple(config.patch_size) if fine else None, concat=seen,
        references=kind is WanFunTransformer3DModel,
    )  # fmt: skip


def shown_to(channels: int) -> tuple[int, ...]:
    """What networks are shown in addition to a latent of this many channels: images, or a control video and an image.

    A mask of the frames that are given comes with the images, and with the control in Wan 2.2.
    """
    return SHOWN + channels, 2 * channels, SHOWN + 2 * channels


def networks(source: Source, kind: Any, one: Forward) -> tuple[Any, Any, Forward]:
    """Loads the network of a model, or both as `Experts`; returns it with its config and what asks it.

    Args:
        source: Where the model comes from.
        kind: Class of the networks.
        one: Asks one network.
    """
    network = source.module(kind, "transformer")
    if not source.where.class_of("transformer_2"):
        return network, network.config, one
    low = source.module(kind, "transformer_2")
    return Experts(network, low, 1000 * boundary_of(source)), network.config, partial(by_level, one)


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
    """One network of Wan; of those of images to video, 2.1's are also given what a vision encoder sees.

    An image that it is shown is one more frame, in front, with the level of the last token.
    """
    images = references(cond)
    seen = {} if transformer.config.image_dim is None else without_references(cond).extra
    cond = replace(cond, extra=seen)
    if not images:
        return plain(transformer, x, t, cond)
    if len(images) > 1:
        raise ValueError(f"this network is shown one image; got {len(images)}")
    longer, concat = with_image(x, cond.concat, images[0])
    if t.ndim == 2:  # a level for each token
        t = torch.cat([t[:, -1:].expand(-1, t.shape[1] // x.shape[2]), t], dim=1)
    return plain(behind_image(transformer), longer, t, replace(cond, concat=concat))[:, :, 1:]


def by_level(one: Forward, experts: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of Wan 2.2 14B: each row is asked of the network for its level, as `one` asks it."""
    high = t >= experts.boundary
    if high.all():
        return one(experts.high, x, t, cond)
    if not high.any():
        return one(experts.low, x, t, cond)
    out = torch.empty_like(x)
    for k, above in enumerate(high.tolist()):
        row = slice(k, k + 1)
        out[row] = one(experts.high if above else experts.low, x[row], t[row], rows(cond, row))
    return out
