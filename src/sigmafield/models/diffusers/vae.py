"""The VAEs of diffusers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage21 import AutoencoderKLQwenImage21
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from sigmafield.models.diffusers.source import Source
from sigmafield.models.missing import NO_VAE
from sigmafield.models.module_view import Views
from sigmafield.models.trained import latent_of
from sigmafield.models.vae.vae import Vae
from sigmafield.parameterization.families import Family
from sigmafield.parameterization.latent_format import LatentFormat, latent_format


def load_vae(source: Source, family: Family) -> tuple[Vae, LatentFormat]:
    """Loads the VAE of a model of images, in float32 where its config has force_upcast, and its latents' format."""
    if source.alone:
        return NO_VAE, latent_format(family.latent_format)
    config = source.config("vae", "AutoencoderKL")
    module, c, dtype = loaded(source, AutoencoderKL, config)
    factor = 2 ** (len(c.block_out_channels) - 1)
    shift, std = channelwise(c.latents_mean, c.shift_factor or 0.0), channelwise(c.latents_std, 1.0)
    latent = LatentFormat(c.latent_channels, factor, float(c.scaling_factor), shift, std)
    vae = Vae(
        lambda x: module.encode(x).latent_dist.mean,
        lambda z: module.decode(z).sample,
        c.latent_channels,
        factor,
        device=source.device,
        dtype=dtype,
        module=module,
        decodes_only=lacking(source, module),
    )
    return vae, latent_of(family, latent)


def load_video_vae(source: Source, family: Family) -> tuple[Vae, LatentFormat]:
    """Loads the VAE of a model of videos, Wan's, and its latents' format."""
    if source.alone:
        return NO_VAE, latent_format(family.latent_format)
    config = source.config("vae", "AutoencoderKLWan")
    module, c, dtype = loaded(source, AutoencoderKLWan, config)
    shift, std = channelwise(c.latents_mean, 0.0), channelwise(c.latents_std, 1.0)
    factor, frames = c.scale_factor_spatial, c.scale_factor_temporal
    latent = LatentFormat(c.z_dim, factor, 1.0, shift, std, axes=3, frame_factor=frames)
    views = Views()  # it keeps the last frames' features on the module between the chunks of a call

    def encode(x: Tensor) -> Tensor:
        with views.borrowed(module) as own:
            return own.encode(x).latent_dist.mean

    def decode(z: Tensor) -> Tensor:
        with views.borrowed(module) as own:
            return own.decode(z).sample

    lacks = lacking(source, module)
    vae = Vae(encode, decode, c.z_dim, factor, frames, source.device, dtype, module, decodes_only=lacks)
    return vae, latent_of(family, latent)


def load_qwen_vae(source: Source, family: Family) -> tuple[Vae, LatentFormat]:
    """Loads the VAE of Qwen-Image, which is one of videos that sees images of one frame, and its latents' format."""
    if source.alone:
        return NO_VAE, replace(latent_format(family.latent_format), axes=2, frame_factor=1)
    module, c, dtype = loaded(source, AutoencoderKLQwenImage, source.config("vae", "AutoencoderKLQwenImage"))
    factor = 2 ** len(c.temperal_downsample)
    latent = LatentFormat(c.z_dim, factor, 1.0, channelwise(c.latents_mean, 0.0), channelwise(c.latents_std, 1.0))
    views = Views()

    def encode(x: Tensor) -> Tensor:
        with views.borrowed(module) as own:
            return own.encode(x[:, :, None]).latent_dist.mean[:, :, 0]

    def decode(z: Tensor) -> Tensor:
        with views.borrowed(module) as own:
            return own.decode(z[:, :, None]).sample[:, :, 0]

    lacks = lacking(source, module)
    vae = Vae(encode, decode, c.z_dim, factor, None, source.device, dtype, module, decodes_only=lacks, whole=True)
    return vae, latent_of(family, latent)


def load_qwen21_vae(source: Source, family: Family) -> tuple[Vae, LatentFormat]:
    """Loads the VAE of Qwen-Image 2.1, and its latents' format: images have a fourth channel, opacity, which is 1."""
    if source.alone:
        return NO_VAE, latent_format(family.latent_format)
    module, c, dtype = loaded(source, AutoencoderKLQwenImage21, source.config("vae", "AutoencoderKLQwenImage21"))
    mean, std = channelwise(c.latents_mean, 0.0), channelwise(c.latents_std, 1.0)
    latent = LatentFormat(c.z_dim, c.scale_factor_spatial, 1.0, mean, std)
    views = Views()

    def encode(x: Tensor) -> Tensor:
        with views.borrowed(module) as own:
            return own.encode(F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)[:, :, None]).latent_dist.mean[:, :, 0]

    def decode(z: Tensor) -> Tensor:
        with views.borrowed(module) as own:
            return own.decode(z[:, :, None]).sample[:, :3, 0]

    lacks = lacking(source, module)
    factor = c.scale_factor_spatial
    vae = Vae(encode, decode, c.z_dim, factor, None, source.device, dtype, module, decodes_only=lacks, whole=True)
    return vae, latent_of(family, latent)


def load_flux2_vae(source: Source, family: Family) -> tuple[Vae, LatentFormat]:
    """Loads the VAE of Flux 2, and its latents' format: each of 2×2 positions is in the channels, then normalised."""
    if source.alone:
        return NO_VAE, latent_format(family.latent_format)
    module, c, dtype = loaded(source, AutoencoderKLFlux2, source.config("vae", "AutoencoderKLFlux2"))
    side = c.patch_size[0]
    channels, factor = c.latent_channels * side**2, side * 2 ** (len(c.block_out_channels) - 1)

    def norm() -> tuple[Tensor, Tensor]:
        mean, variance = (each.reshape(1, -1, 1, 1) for each in (module.bn.running_mean, module.bn.running_var))
        return mean, torch.sqrt(variance + c.batch_norm_eps)

    def encode(x: Tensor) -> Tensor:
        mean, std = norm()
        return (F.pixel_unshuffle(module.encode(x).latent_dist.mean, side) - mean) / std

    def decode(z: Tensor) -> Tensor:
        mean, std = norm()
        return module.decode(F.pixel_shuffle(z * std + mean, side)).sample

    vae = Vae(
        encode, decode, channels, factor, None, source.device, dtype, module,
        decodes_only=lacking(source, module), whole=True,
    )  # fmt: skip
    return vae, latent_of(family, LatentFormat(channels, factor))


def loaded(source: Source, kind: Any, config: dict[str, Any]) -> tuple[Any, Any, torch.dtype]:
    """Loads a VAE of a class; returns it with its config and dtype."""
    dtype = torch.float32 if config.get("force_upcast", True) else source.dtype
    vae = source.module(kind, "vae", dtype)
    return vae, vae.config, dtype


def lacking(source: Source, module: Any) -> str | None:
    """Why a VAE cannot encode images; None if it can."""
    if module.encoder is not None:
        return None
    return f"{source.where.path}: its VAE has no encoder, so that it decodes latents but cannot encode images"


def channelwise(values: Any, default: float) -> float | list[float]:
    """One number per channel, or the default for all."""
    return float(default) if values is None else [float(value) for value in values]
