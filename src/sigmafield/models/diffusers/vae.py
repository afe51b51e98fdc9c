"""The VAE of a model: latents to pictures and back."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from sigmafield.latents import LatentFormat, recognised
from sigmafield.models.diffusers.source import Source
from sigmafield.models.picture import Codec, codec


def load_vae(source: Source) -> tuple[Any, LatentFormat, tuple[Codec, Codec]]:
    """The VAE, the format of its latents, and `Pipeline.encode` and `.decode`; in float32 where it has force_upcast."""
    config = source.config("vae", "AutoencoderKL")
    dtype = torch.float32 if config.get("force_upcast", True) else source.dtype
    vae = source.module(AutoencoderKL, "vae", dtype)
    c = vae.config
    if c.latents_mean is not None or c.latents_std is not None:
        rule = "latents_mean and latents_std are not supported; supported: scaling_factor, shift_factor"
        raise ValueError(f"{source.where.path / 'vae'}: {rule}")
    factor = 2 ** (len(c.block_out_channels) - 1)
    latent = recognised(LatentFormat(c.latent_channels, factor, float(c.scaling_factor), float(c.shift_factor or 0)))
    both = codec(lambda x: vae.encode(x).latent_dist.mean, lambda z: vae.decode(z).sample, latent, source.device, dtype)
    return vae, latent, both
