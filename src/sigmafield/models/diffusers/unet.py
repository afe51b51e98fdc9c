"""Networks of diffusers' UNet2DConditionModel: Stable Diffusion 1, 2 and XL, their inpainting models, XL's refiner."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.core.protocols import Network
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.clip import clip_encoder, xl_encoder
from sigmafield.models.diffusers.control import fitting, residuals
from sigmafield.models.diffusers.refiner import refiner_encoder
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.vae import load_vae
from sigmafield.models.scheduler_config import sampling_of
from sigmafield.models.vae.codec import sides


def build_unet(source: Source) -> Pipeline:
    """The pipeline of a directory with a UNet2DConditionModel."""
    sampling = sampling_of(source.where.scheduler())
    vae, latent, (encode, decode) = load_vae(source)
    config = source.config("unet", "UNet2DConditionModel")
    check_network(source, config, latent.channels)
    xl = config.get("addition_embed_type") == "text_time"
    encode_negative = None
    if xl and source.where.class_of("text_encoder") is None:
        encode_text, encode_negative, encoders = refiner_encoder(source, config)
    else:
        encode_text, encoders = (xl_encoder if xl else clip_encoder)(source)
    unet = source.module(UNet2DConditionModel, "unet")
    return Pipeline(
        name=source.name,
        sampling=sampling,
        latent=latent,
        encode_text=encode_text,
        network=network_of(unet),
        encode=encode,
        decode=decode,
        size=sides(config.get("sample_size"), latent.factor, 64),
        device=source.device,
        preview=latent.to_rgb if latent.rgb else None,
        modules={"unet": unet, "vae": vae, **encoders},
        concat=unet.config.in_channels - latent.channels,
        controls=fitting(unet),
        encode_negative=encode_negative,
    )


def check_network(source: Source, config: dict[str, Any], channels: int) -> None:
    """Raises ValueError for a network that wants more than latent, timestep, text, SDXL's conditioning and a concat."""
    supported: dict[str, tuple[Any, ...]] = {
        "in_channels": (channels, channels + 1, 2 * channels, 2 * channels + 1),  # with depth, a image, both of it
        "addition_embed_type": (None, "text_time"),
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "encoder_hid_dim_type": (None,),
    }
    for key, values in supported.items():
        if config.get(key) not in values:
            known, folder = ", ".join(map(repr, values)), source.where.path / "unet"
            raise ValueError(f"{folder}: config: {key} = {config.get(key)!r} is not supported; supported: {known}")


def network_of(unet: Any) -> Network:
    """`Pipeline.network` of a UNet: inputs in its dtype, the answer in float32. Controls see x without the concat."""

    def network(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        x, text = x.to(unet.dtype), cond.embeds.to(unet.dtype)
        added = residuals(x, t, cond)
        wide = x if cond.concat is None else torch.cat([x, cond.concat.to(x)], dim=1)
        out = unet(
            wide,
            t,
            encoder_hidden_states=text,
            added_cond_kwargs=cond.extra,
            down_block_additional_residuals=added.skips or None,
            mid_block_additional_residual=added.middle,
            down_intrablock_additional_residuals=list(added.blocks) or None,
        )
        return out.sample.float()

    return network
