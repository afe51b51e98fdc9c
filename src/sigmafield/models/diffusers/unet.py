"""Networks of diffusers' UNet2DConditionModel: Stable Diffusion 1, 2 and XL."""

from __future__ import annotations

from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from sigmafield.models.diffusers.clip import clip_encoder, xl_encoder
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.vae import load_vae
from sigmafield.models.picture import sides
from sigmafield.models.pipeline import Network, Pipeline
from sigmafield.models.scheduler import sampling_of
from sigmafield.types import Cond


def build_unet(source: Source) -> Pipeline:
    """The pipeline of a directory with a UNet2DConditionModel."""
    sampling = sampling_of(source.where.scheduler())
    vae, latent, (encode, decode) = load_vae(source)
    config = source.config("unet", "UNet2DConditionModel")
    check_network(source, config, latent.channels)
    xl = config.get("addition_embed_type") == "text_time"
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
    )


def check_network(source: Source, config: dict[str, Any], channels: int) -> None:
    """Raises ValueError for a network that wants more than latent, timestep, text and SDXL's conditioning."""
    supported: dict[str, tuple[Any, ...]] = {
        "in_channels": (channels,),
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
    """`Pipeline.network` of a UNet: inputs in its dtype, the answer in float32."""

    def network(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        text = cond.embeds.to(unet.dtype)
        return unet(x.to(unet.dtype), t, encoder_hidden_states=text, added_cond_kwargs=cond.extra).sample.float()

    return network
