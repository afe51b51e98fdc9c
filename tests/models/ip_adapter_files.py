"""Files of small IP-Adapters and of the vision encoder that they are for, in their published layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]
SEES = 24
"""Width of what the vision encoder sees."""


def drawn(*shape: int, seed: int = 0, scale: float = 0.3) -> Tensor:
    """Normal numbers that follow from shape and seed."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def plain(dim: int) -> Weights:
    """The projection of a plain adapter: four tokens from one vector."""
    return {
        "proj.weight": drawn(4 * dim, SEES), "proj.bias": drawn(4 * dim), "norm.weight": 1 + drawn(dim),
        "norm.bias": drawn(dim),
    }  # fmt: skip


def plus(dim: int) -> Weights:
    """The resampler of a plus adapter, of five queries 64 wide, by its published names."""
    values = {
        "latents": drawn(1, 5, 64), "proj_in.weight": drawn(64, SEES), "proj_in.bias": drawn(64),
        "proj_out.weight": drawn(dim, 64), "proj_out.bias": drawn(dim), "norm_out.weight": 1 + drawn(dim),
        "norm_out.bias": drawn(dim),
    }  # fmt: skip
    for i in range(4):
        for name in ("0.norm1", "0.norm2", "1.0"):
            values |= {f"layers.{i}.{name}.weight": 1 + drawn(64), f"layers.{i}.{name}.bias": drawn(64)}
        for name, shape in {"0.to_q": (64, 64), "0.to_kv": (128, 64), "0.to_out": (64, 64)}.items():
            values[f"layers.{i}.{name}.weight"] = drawn(*shape, seed=i)
        values |= {f"layers.{i}.1.1.weight": drawn(256, 64, seed=i), f"layers.{i}.1.3.weight": drawn(64, 256, seed=i)}
    return values


def layers(widths: list[int], dim: int) -> Weights:
    """Keys and values of the cross-attentions of a UNet, by h94's numbers."""
    return {
        f"{2 * i + 1}.to_{part}_ip.weight": drawn(width, dim, seed=i + 100 * (part == "v"))
        for i, width in enumerate(widths)
        for part in "kv"
    }


def written(
    path: Path, projection: Weights, adapter: Weights, prefixes: tuple[str, str] = ("image_proj", "ip_adapter")
) -> Path:
    """Writes an adapter, and gives its path."""
    parts = zip(prefixes, (projection, adapter))
    save_file({f"{prefix}.{name}": value for prefix, part in parts for name, value in part.items()}, path)
    return path


def widths_of(unet: Any) -> list[int]:
    """Widths of a UNet's cross-attentions, in diffusers' order."""
    return [
        unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
        for name in unet.attn_processors
        if "attn2" in name
    ]


def save_encoder(path: Path) -> Path:
    """A vision encoder of transformers, with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=16, image_size=28, patch_size=7,
        hidden_act="gelu", projection_dim=SEES,
    )  # fmt: skip
    values = CLIPVisionModelWithProjection(config).state_dict()
    prefix = "vision_model."
    named = {k if k.startswith((prefix, "visual_")) else prefix + k: v.contiguous() for k, v in values.items()}
    save_file(named, path)
    return path


def save_adapter(path: Path, unet: Any) -> Path:
    """A plain adapter for a UNet."""
    dim = unet.config.cross_attention_dim
    return written(path, plain(dim), layers(widths_of(unet), dim))
