"""The VAEs of diffusers."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from sigmafield.models.bundle import Vae
from sigmafield.models.diffusers.source import Source
from sigmafield.models.trained import latent_of
from sigmafield.parameterization.families import Family
from sigmafield.parameterization.latent_format import LatentFormat


def load_vae(source: Source, family: Family) -> tuple[Vae, LatentFormat]:
    """Loads the VAE of a model of images, in float32 where its config has force_upcast, and its latents' format."""
    config = source.config("vae", "AutoencoderKL")
    module, c, dtype = loaded(source, AutoencoderKL, config)
    factor = 2 ** (len(c.block_out_channels) - 1)
    shift, std = channelwise(c.latents_mean, c.shift_factor or 0.0), channelwise(c.latents_std, 1.0)
    latent = LatentFormat(c.latent_channels, factor, float(c.scaling_factor), shift, std)
    return vae_of(source, module, c.latent_channels, factor, None, dtype), latent_of(family, latent)


def load_video_vae(source: Source, family: Family) -> tuple[Vae, LatentFormat]:
    """Loads the VAE of a model of videos, Wan's, and its latents' format."""
    config = source.config("vae", "AutoencoderKLWan")
    module, c, dtype = loaded(source, AutoencoderKLWan, config)
    shift, std = channelwise(c.latents_mean, 0.0), channelwise(c.latents_std, 1.0)
    factor, frames = c.scale_factor_spatial, c.scale_factor_temporal
    latent = LatentFormat(c.z_dim, factor, 1.0, shift, std, axes=3, frame_factor=frames)
    return vae_of(source, module, c.z_dim, factor, frames, dtype), latent_of(family, latent)


def loaded(source: Source, kind: Any, config: dict[str, Any]) -> tuple[Any, Any, torch.dtype]:
    """Loads a VAE of a class; returns it with its config and dtype."""
    dtype = torch.float32 if config.get("force_upcast", True) else source.dtype
    vae = source.module(kind, "vae", dtype)
    return vae, vae.config, dtype


def vae_of(
    source: Source, module: Any, channels: int, factor: int, frame_factor: int | None, dtype: torch.dtype
) -> Vae:
    """Wraps a VAE of diffusers."""
    return Vae(
        lambda x: module.encode(x).latent_dist.mean,
        lambda z: module.decode(z).sample,
        channels,
        factor,
        frame_factor,
        source.device,
        dtype,
        module,
    )


def channelwise(values: Any, default: float) -> float | list[float]:
    """One number per channel, or the default for all."""
    return float(default) if values is None else [float(value) for value in values]
