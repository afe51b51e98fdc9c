"""Weights with the names of the published layouts → with those of diffusers' and transformers' classes.

The names are translated by diffusers' own converters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_chroma_transformer_checkpoint_to_diffusers,
    convert_flux2_transformer_checkpoint_to_diffusers,
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_hunyuan_video_transformer_to_diffusers,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_ltx_transformer_checkpoint_to_diffusers,
    convert_ltx_vae_checkpoint_to_diffusers,
    convert_open_clip_checkpoint,
    convert_qwen_image21_transformer_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
    convert_wan_transformer_to_diffusers,
    convert_wan_vae_to_diffusers,
    convert_z_image_transformer_checkpoint_to_diffusers,
)
from torch import Tensor

from sigmafield.models.single_file.layouts import LDM, LTX_095
from sigmafield.models.single_file.stand_ins import resolved, stand_ins
from sigmafield.models.weights.packed import Value, unpacked

Weights = dict[str, Tensor]
FLUX_WIDTH = 3072
"""The width that diffusers' converters of Flux and HunyuanVideo take for granted."""
LTX_WIDTH = 2048
"""The width of the encoder by which diffusers' converter knows the VAE of LTX-Video since 0.9.5."""


def converted(kind: str, values: Mapping[str, Value], config: Mapping[str, Any], family: str) -> dict[str, Value]:
    """Renames the weights of one part for a class; quantised ones stay so, except those of a VAE.

    Args:
        kind: The class.
        values: Weights without the part's prefix in the file.
        config: The class's config.
        family: The file's family.

    Raises:
        ValueError: If a weight has no name in the class.
        KeyError: If a weight is missing.
    """
    if kind in VAES:
        return dict(VAES[kind]({name: unpacked(value) for name, value in values.items()}, config))
    return resolved(renamed(kind, stand_ins(values), config, family), values)


def renamed(kind: str, tensors: Weights, config: Mapping[str, Any], family: str) -> Weights:
    """Renames the weights of a network or text encoder; arguments and errors as for `converted`."""
    if kind == "UNet2DConditionModel":
        return unet(tensors, config)
    if kind in CONVERTERS:
        return used_up(CONVERTERS[kind], tensors)
    if kind in OF_FLUX:
        width = tensors["img_in.weight"].shape[0]
        return cut_later(lambda given: used_up(OF_FLUX[kind], given), tensors, width)
    if kind == "HunyuanVideoTransformer3DModel":
        width = tensors["img_in.proj.weight"].shape[0]
        return cut_later(lambda given: convert_hunyuan_video_transformer_to_diffusers(dict(given)), tensors, width)
    if kind in SEEING:
        return {qwen_name(name): value for name, value in tensors.items()}
    if kind == "MistralModel":
        return mistral(tensors, config)
    if kind in UNCHANGED:
        return tensors
    return clip(tensors, config, family, projected=kind.endswith("WithProjection"))


def unet(tensors: Weights, config: Mapping[str, Any]) -> Weights:
    """A UNet's weights; raises ValueError for unused ones, so that a network with further layers is noticed."""
    out = convert_ldm_unet_checkpoint({LDM + name: value for name, value in tensors.items()}, dict(config))
    placed = {id(value) for value in out.values()}
    left_over([name for name, value in tensors.items() if id(value) not in placed])
    return out


def vae(tensors: Weights, config: Mapping[str, Any]) -> Weights:
    """An autoencoder's weights, without those of the losses that it was trained with."""
    beginnings = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    own = {f"first_stage_model.{name}": value for name, value in tensors.items() if name.startswith(beginnings)}
    return convert_ldm_vae_checkpoint(own, dict(config))


def clip(tensors: Weights, config: Mapping[str, Any], family: str, projected: bool) -> Weights:
    """A text encoder's weights, from OpenCLIP's names or transformers'; its projection is 1 where the file has none.

    Of Stable Diffusion 2's the converter leaves the last layer out, which knows it by its full name.
    """
    if "positional_embedding" in tensors:
        prefix = "cond_stage_model.model." if family == "sd2" else "conditioner.embedders.1.model."
        like = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
        out = convert_open_clip_checkpoint(like, {prefix + name: value for name, value in tensors.items()}, prefix)
    else:
        out = {name: value for name, value in tensors.items() if not name.endswith("position_ids")}
    out = {name: value for name, value in out.items() if name not in ("logit_scale", "text_projection")}
    if not projected:
        out.pop("text_projection.weight", None)
    elif "text_projection.weight" not in out:
        out["text_projection.weight"] = torch.eye(config["hidden_size"])
    return out


def flux2_vae(tensors: Weights, config: Mapping[str, Any]) -> Weights:
    """The weights of Flux 2's autoencoder; the convolutions next to the latents are its own, or its halves'."""
    moved = {"encoder.quant_conv.": "quant_conv.", "decoder.post_quant_conv.": "post_quant_conv."}
    for old, new in moved.items():
        tensors = {new + name.removeprefix(old) if name.startswith(old) else name: t for name, t in tensors.items()}
    norm = {name: value for name, value in tensors.items() if name.startswith("bn.")}
    return vae(tensors, config) | norm


def wan_vae(tensors: Weights, config: Mapping[str, Any]) -> Weights:
    """The weights of the autoencoder of Wan and Qwen-Image; the blocks of Wan 2.2 5B's hold layers of their own."""
    blocks = {name: value for name, value in tensors.items() if FINE_BLOCK.match(name)}
    plain = {name: value for name, value in tensors.items() if name not in blocks}
    return convert_wan_vae_to_diffusers(plain) | {fine_name(name): value for name, value in blocks.items()}


FINE_BLOCK = re.compile(
    r"(?:en|de)coder\.(?P<way>down|up)samples\.(?P<block>\d)\.(?:down|up)samples\.(?P<layer>\d)\.(?P<rest>.+)"
)
"""A weight in a block of Wan 2.2 5B's autoencoder."""
RESNET = {"residual.0.": "norm1.", "residual.2.": "conv1.", "residual.3.": "norm2.", "residual.6.": "conv2."}


def fine_name(name: str) -> str:
    """The name of a weight in a block of Wan 2.2 5B's autoencoder: of a residual layer, or of what changes the size."""
    found = FINE_BLOCK.match(name)
    assert found is not None
    way, block, layer, rest = found["way"], found["block"], found["layer"], found["rest"]
    start = f"{'encoder' if way == 'down' else 'decoder'}.{way}_blocks.{block}"
    if rest.startswith(("resample.", "time_conv.")):
        return f"{start}.{way}sampler.{rest}"
    for old, new in {**RESNET, "shortcut.": "conv_shortcut."}.items():
        rest = rest.replace(old, new)
    return f"{start}.resnets.{layer}.{rest}"


def qwen_name(name: str) -> str:
    """A name in the original layout of Qwen 2.5 VL, or in transformers', as transformers has it."""
    if name.startswith(("model.language_model.", "model.visual.")):
        return name
    if name.startswith("visual."):
        return f"model.{name}"
    return f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name


def mistral(tensors: Weights, config: Mapping[str, Any]) -> Weights:
    """The weights of Mistral's layers; a file that was cut after some of them has no norm, and 1 is put there."""
    starts = ("language_model.model.", "model.language_model.", "model.")
    found = Weights()
    for name, value in tensors.items():
        start = next((start for start in starts if name.startswith(start)), None)
        if start is not None:
            found[name.removeprefix(start)] = value
    return {"norm.weight": torch.ones(config["hidden_size"]), **found}


def ltx_vae(tensors: Weights, config: Mapping[str, Any]) -> Weights:
    """The weights of LTX-Video's autoencoder, of any width, which the converter knows by the published one."""
    end = "encoder.conv_out.conv.weight"
    mark = torch.empty(0, LTX_WIDTH if LTX_095 in tensors else 0)
    out = convert_ltx_vae_checkpoint_to_diffusers({f"vae.{name}": t for name, t in (tensors | {end: mark}).items()})
    return out | {end: tensors[end]}


def cut_later(converter: Callable[[Weights], Weights], tensors: Weights, width: int) -> Weights:
    """Weights of any width: what converters of Flux, Chroma and HunyuanVideo cut at the published one is cut here."""
    sizes = (width, width, width, 4 * width)
    names = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    fused = {name: value for name, value in tensors.items() if ".linear1." in name}
    blank = torch.empty(7 * FLUX_WIDTH, 0)
    out = converter(tensors | dict.fromkeys(fused, blank))
    for name, value in fused.items():
        _, block, _, kind = name.split(".")
        cut = zip(names, value.split(sizes))
        out |= {f"single_transformer_blocks.{block}.{part}.{kind}": piece.clone() for part, piece in cut}
    return out


def qwen21_vae(tensors: Weights, config: Mapping[str, Any]) -> Weights:
    """The weights of the autoencoder of Qwen-Image 2.1, by diffusers' names or by those of Wan 2.2 5B's."""
    return wan_vae(tensors, config) if "decoder.conv1.weight" in tensors else tensors


VAES = {
    "AutoencoderKL": vae,
    "AutoencoderKLFlux2": flux2_vae,
    "AutoencoderKLLTXVideo": ltx_vae,
    "AutoencoderKLQwenImage": wan_vae,
    "AutoencoderKLQwenImage21": qwen21_vae,
    "AutoencoderKLWan": wan_vae,
}
CONVERTERS = {
    "QwenImage21Transformer2DModel": convert_qwen_image21_transformer_checkpoint_to_diffusers,
    "SD3Transformer2DModel": convert_sd3_transformer_checkpoint_to_diffusers,
    "Flux2Transformer2DModel": convert_flux2_transformer_checkpoint_to_diffusers,
    "ZImageTransformer2DModel": convert_z_image_transformer_checkpoint_to_diffusers,
    "LTXVideoTransformer3DModel": convert_ltx_transformer_checkpoint_to_diffusers,
    "WanTransformer3DModel": convert_wan_transformer_to_diffusers,
    "WanFunTransformer3DModel": convert_wan_transformer_to_diffusers,
    "WanVACETransformer3DModel": convert_wan_transformer_to_diffusers,
}
OF_FLUX = {
    "FluxTransformer2DModel": convert_flux_transformer_checkpoint_to_diffusers,
    "ChromaTransformer2DModel": convert_chroma_transformer_checkpoint_to_diffusers,
}
SEEING = ("Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration")
"""Language models with a vision encoder."""
UNCHANGED = (
    "T5EncoderModel", "UMT5EncoderModel", "Qwen3ForCausalLM", "LlamaForCausalLM", "QwenImageTransformer2DModel",
    "HiDreamImageTransformer2DModel",
)  # fmt: skip
"""Classes whose names files have."""


def used_up(converter: Any, tensors: Weights) -> Weights:
    """Calls a converter that removes the weights that it uses; raises ValueError if some are left."""
    rest = dict(tensors)
    out = converter(rest)
    left_over(list(rest))
    return out


def left_over(names: list[str]) -> None:
    """Raises ValueError for weights that have no name in the class."""
    if names:
        raise ValueError(f"{len(names)} weights are unknown, the first is {min(names)}")
