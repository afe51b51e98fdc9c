"""Configs of autoencoders, as far as the shapes of their weights tell them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sigmafield.models.single_file.layouts import LTX_095, Shapes, count


def vae(s: Shapes) -> dict[str, Any]:
    """An autoencoder: widths of its levels, channels of its latents. Read off the decoder, as some have no encoder."""
    levels = count(s, "decoder.up.{}.block.0.conv1.weight")
    return {
        "latent_channels": s["decoder.conv_in.weight"][1],
        "block_out_channels": [s[f"decoder.up.{i}.block.0.conv1.weight"][0] for i in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": count(s, "decoder.up.0.block.{}.conv1.weight") - 1,
        "use_quant_conv": "quant_conv.weight" in s,
        "use_post_quant_conv": "post_quant_conv.weight" in s,
    }


def kl_qwen21(s: Shapes) -> dict[str, Any]:
    """The autoencoder of Qwen-Image 2.1, by diffusers' names or those of Wan's; its last level is 8 times wider."""
    first, last = (
        f"{side}.conv1.weight" if "conv2.weight" in s else f"{side}.conv_in.weight" for side in ("encoder", "decoder")
    )
    return {"z_dim": s[last][1], "base_dim": s[first][0], "decoder_base_dim": s[last][0] // 8}


def kl_flux2(s: Shapes) -> dict[str, Any]:
    """The autoencoder of Flux 2."""
    levels = count(s, "decoder.up.{}.block.0.conv1.weight")
    return {
        "latent_channels": s["decoder.conv_in.weight"][1],
        "block_out_channels": [s[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)],
        "decoder_block_out_channels": [s[f"decoder.up.{i}.block.0.conv1.weight"][0] for i in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": count(s, "decoder.up.0.block.{}.conv1.weight") - 1,
    }


def kl_wan(s: Shapes) -> dict[str, Any]:
    """The autoencoder of Wan 2.1 and Qwen-Image, or that of Wan 2.2 5B, which reads patches of 2×2 pixels."""
    channels, (base, read) = s["conv2.weight"][0], s["encoder.conv1.weight"][:2]
    config: dict[str, Any] = {"z_dim": channels, "base_dim": base}
    if "encoder.downsamples.0.downsamples.0.residual.2.weight" not in s:
        return config
    return config | {
        "decoder_base_dim": s["decoder.conv1.weight"][0] // 4,
        "is_residual": True,
        "in_channels": read,
        "out_channels": read,
        "patch_size": 2,
        "scale_factor_spatial": 16,
        "latents_mean": [0.0] * channels,
        "latents_std": [1.0] * channels,
    }


OLD_LTX: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["LTXVideoDownBlock3D"] * 4,
    "layers_per_block": [4, 3, 3, 3, 4],
    "spatio_temporal_scaling": [True, True, True, False],
    "downsample_type": ["conv"] * 4,
}
"""The encoder of LTX-Video before 0.9.5."""


FIRST_LTX: dict[str, Any] = {
    "decoder_block_out_channels": [128, 256, 512, 512],
    "decoder_layers_per_block": [4, 3, 3, 3, 4],
    "decoder_spatio_temporal_scaling": [True, True, True, False],
    "decoder_inject_noise": [False] * 5,
    "upsample_residual": [False] * 4,
    "upsample_factor": [1] * 4,
    "timestep_conditioning": False,
}
"""The decoder of 0.9.0."""


SECOND_LTX: dict[str, Any] = {
    "decoder_layers_per_block": [5, 6, 7, 8],
    "decoder_inject_noise": [True, True, True, False],
}
"""The decoder of 0.9.1, where it is not that of 0.9.5."""


def kl_ltx(s: Shapes) -> dict[str, Any]:
    """The autoencoder of LTX-Video; those before 0.9.5 have one size each."""
    if LTX_095 not in s:
        return OLD_LTX | (SECOND_LTX if "decoder.last_scale_shift_table" in s else FIRST_LTX)
    down, up = (
        "encoder.down_blocks.{}.res_blocks.{}.conv1.conv.weight",
        "decoder.up_blocks.{}.res_blocks.{}.conv1.conv.weight",
    )
    return {
        "latent_channels": s["decoder.conv_in.conv.weight"][1],
        "block_out_channels": [s[down.format(i, 0)][0] for i in (0, 2, 4, 6, 8)],
        "layers_per_block": [count(s, down.format(i, "{}")) for i in (0, 2, 4, 6, 8)],
        "decoder_block_out_channels": [2 * s[up.format(i, 0)][0] for i in (6, 4, 2)],
        "decoder_layers_per_block": [count(s, up.format(i, "{}")) for i in (6, 4, 2, 0)],
        "timestep_conditioning": "decoder.last_scale_shift_table" in s,
    }


VAES: dict[str, Callable[[Shapes], dict[str, Any]]] = {
    "flux2": kl_flux2, "qwen_image": kl_wan, "qwen_image21": kl_qwen21, "wan": kl_wan, "wan_fun": kl_wan,
    "wan_vace": kl_wan, "ltxv": kl_ltx,
}  # fmt: skip
"""How the config of a family's autoencoder is read, where it is not of Stable Diffusion's kind."""
