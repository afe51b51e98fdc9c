"""The VAEs of LTX and Hunyuan, of videos and of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.vae import lacking, loaded
from sigmafield.models.missing import NO_VAE
from sigmafield.models.trained import latent_of
from sigmafield.models.vae.vae import Vae
from sigmafield.parameterization.families import Family
from sigmafield.parameterization.latent_format import LatentFormat, latent_format

DECODED_AT = 0.05
"""The time that those decoders of LTX-Video are given that take one, as in its authors' examples."""


def load_ltx_vae(source: Source, family: Family, kind: Any) -> tuple[Vae, LatentFormat]:
    """Loads a VAE of LTX, and its latents' format: they are normalised by numbers that lie with the weights.

    Args:
        source: Where the model comes from.
        family: The network's family.
        kind: Class of the VAE.
    """
    if source.alone:
        return NO_VAE, latent_format(family.latent_format)
    module, c, dtype = loaded(source, kind, source.config("vae", kind.__name__))
    factor, frames = module.spatial_compression_ratio, module.temporal_compression_ratio

    def norm() -> tuple[Tensor, Tensor]:
        mean, std = (each.reshape(1, -1, 1, 1, 1) for each in (module.latents_mean, module.latents_std))
        return mean, std / c.scaling_factor

    def encode(x: Tensor) -> Tensor:
        mean, std = norm()
        return (module.encode(x).latent_dist.mean - mean) / std

    def decode(z: Tensor) -> Tensor:
        mean, std = norm()
        at = torch.full((len(z),), DECODED_AT).to(z) if c.timestep_conditioning else None
        return module.decode(z * std + mean, at).sample

    lacks = lacking(source, module)
    vae = Vae(encode, decode, c.latent_channels, factor, frames, source.device, dtype, module, decodes_only=lacks)
    return vae, latent_of(family, LatentFormat(c.latent_channels, factor, axes=3, frame_factor=frames))


def load_hunyuan_vae(source: Source, family: Family, kind: Any) -> tuple[Vae, LatentFormat]:
    """Loads a VAE of Hunyuan, and its latents' format; arguments as for `load_ltx_vae`."""
    if source.alone:
        return NO_VAE, latent_format(family.latent_format)
    module, c, dtype = loaded(source, kind, source.config("vae", kind.__name__))
    frames = c.get("temporal_compression_ratio")
    latent = LatentFormat(
        c.latent_channels, c.spatial_compression_ratio, float(c.scaling_factor), axes=3 if frames else 2,
        frame_factor=frames or 1,
    )  # fmt: skip
    vae = Vae(
        lambda x: module.encode(x).latent_dist.mean, lambda z: module.decode(z).sample, latent.channels, latent.factor,
        frames, source.device, dtype, module, decodes_only=lacking(source, module), whole=True,
    )  # fmt: skip
    return vae, latent_of(family, latent)
