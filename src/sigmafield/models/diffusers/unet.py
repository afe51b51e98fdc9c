"""Networks of diffusers' UNet2DConditionModel: Stable Diffusion 1, 2 and XL, their inpainting models, XL's refiner."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.attend import attending, on_cross_attention
from sigmafield.models.diffusers.clip import clip_encoder, xl_encoder
from sigmafield.models.diffusers.control import fitting, residuals
from sigmafield.models.diffusers.refiner import refiner_encoder
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.vae import load_vae
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.scheduler_config import sampling_of
from sigmafield.models.trained import trained_size
from sigmafield.parameterization.families import family

SD2_CHANNELS = 1024
"""Channels of Stable Diffusion 2's text embeddings; 1 has 768."""


def build_unet(source: Source) -> Pipeline:
    """Builds the pipeline of a model with a UNet2DConditionModel."""
    scheduler = source.where.scheduler()
    sampling = sampling_of(scheduler)
    config = source.config("unet", "UNet2DConditionModel")
    own = family(family_of(source, config, scheduler))
    vae, latent = load_vae(source, own)
    check_network(source, config, latent.channels)
    read = partial(refiner_encoder, config=config) if own.name == "SDXLRefiner" else READERS[own.latent_format]
    text = NO_TEXT if source.alone else read(source)
    unet = source.module(UNet2DConditionModel, "unet")
    model = DiffusionModel(
        source.name,
        forward,
        sampling,
        latent,
        trained_size(config.get("sample_size"), latent.factor, 64),
        unet,
        family=own,
        schedule=own.schedule,
        concat=unet.config.in_channels - latent.channels,
        controls=fitting(unet),
        image_prompts=True,
        device=source.device,
    )
    return Pipeline(model, text, vae)


READERS = {"SD15": clip_encoder, "SDXL": xl_encoder}
"""How prompts are read, by the family's latent format."""


def family_of(source: Source, config: Mapping[str, Any], scheduler: Mapping[str, Any]) -> str:
    """Names the family of a UNet: its text inputs tell Stable Diffusion 1, 2 and XL apart, the scheduler the rest."""
    v = scheduler.get("prediction_type") == "v_prediction"
    if config.get("addition_embed_type") == "text_time":
        if source.where.class_of("text_encoder") is None:
            return "SDXLRefiner"
        return "SDXL" + "_V" * v + "_ZSNR" * (v and bool(scheduler.get("rescale_betas_zero_snr")))
    if config.get("cross_attention_dim") == SD2_CHANNELS:
        return "SD20" + "_V" * v
    return "SD15"


def check_network(source: Source, config: dict[str, Any], channels: int) -> None:
    """Raises ValueError for a network with inputs other than latent, timestep, text, SDXL's sizes and a concat."""
    supported: dict[str, tuple[Any, ...]] = {
        "in_channels": (channels, channels + 1, 2 * channels, 2 * channels + 1),  # plus a depth map, an image, or both
        "addition_embed_type": (None, "text_time"),
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "encoder_hid_dim_type": (None,),
    }
    for key, values in supported.items():
        if config.get(key) not in values:
            known, folder = ", ".join(map(repr, values)), source.where.path / "unet"
            raise ValueError(f"{folder}: config: {key} = {config.get(key)!r} is not supported; supported: {known}")


def forward(unet: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of a UNet: inputs in its dtype, the answer in float32; controls see x without the concat."""
    x, text = x.to(unet.dtype), cond.embeds.to(unet.dtype)
    added = residuals(x, t, cond)
    wide = x if cond.concat is None else torch.cat([x, cond.concat.to(x)], dim=1)
    with attending(unet, cond.image_prompts, on_cross_attention):
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
