"""The VAE of a model: latents to images and back."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from sigmafield.models.diffusers.source import Source
from sigmafield.models.vae.codec import Codec, codec
from sigmafield.parameterization.latent_format import LatentFormat, recognised


def load_vae(source: Source) -> tuple[Any, LatentFormat, tuple[Codec, Codec]]:
    """The VAE, the format of its latents, and `Pipeline.encode` and `.decode`; in float32 where it has force_upcast."""
    config = source.config("vae", "AutoencoderKL")
    vae, c, dtype = loaded(source, AutoencoderKL, config)
    factor = 2 ** (len(c.block_out_channels) - 1)
    shift, std = channelwise(c.latents_mean, c.shift_factor or 0.0), channelwise(c.latents_std, 1.0)
    latent = recognised(LatentFormat(c.latent_channels, factor, float(c.scaling_factor), shift, std))
    return vae, latent, both(source, vae, latent, dtype)


def load_video_vae(source: Source) -> tuple[Any, LatentFormat, tuple[Codec, Codec]]:
    """The same of a model of videos: Wan's VAE."""
    config = source.config("vae", "AutoencoderKLWan")
    vae, c, dtype = loaded(source, AutoencoderKLWan, config)
    shift, std = channelwise(c.latents_mean, 0.0), channelwise(c.latents_std, 1.0)
    factor, frames = c.scale_factor_spatial, c.scale_factor_temporal
    latent = recognised(LatentFormat(c.z_dim, factor, 1.0, shift, std, axes=3, frame_factor=frames))
    return vae, latent, both(source, vae, latent, dtype)


def loaded(source: Source, kind: Any, config: dict[str, Any]) -> tuple[Any, Any, torch.dtype]:
    """A VAE of that class with its config and dtype."""
    dtype = torch.float32 if config.get("force_upcast", True) else source.dtype
    vae = source.module(kind, "vae", dtype)
    return vae, vae.config, dtype


def both(source: Source, vae: Any, latent: LatentFormat, dtype: torch.dtype) -> tuple[Codec, Codec]:
    """`Pipeline.encode` and `.decode` of a VAE of diffusers."""
    return codec(lambda x: vae.encode(x).latent_dist.mean, lambda z: vae.decode(z).sample, latent, source.device, dtype)


def channelwise(values: Any, default: float) -> float | list[float]:
    """A number for each channel, or the default for all."""
    return float(default) if values is None else [float(value) for value in values]
