"""Quantises weights as programs do that write files of them, and says what numbers a file then holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]
FLOAT8 = torch.float8_e4m3fn


def layers_of(weights: Weights, within: str = "", axes: tuple[int, ...] = (2,)) -> list[str]:
    """Names of the weights of layers, without .weight."""
    return [
        name.removesuffix(".weight")
        for name, value in weights.items()
        if name.startswith(within) and name.endswith(".weight") and value.ndim in axes and "embed" not in name
    ]


def scaled(value: Tensor, per_row: bool, dtype: torch.dtype = FLOAT8) -> tuple[Tensor, Tensor, Tensor]:
    """8-bit data, their scale, and the numbers that they stand for, data × scale in float32."""
    axes = tuple(range(1, value.ndim)) if per_row else tuple(range(value.ndim))
    largest = 127 if dtype == torch.int8 else torch.finfo(dtype).max
    scale = value.abs().amax(axes, keepdim=True) / largest
    data = (value / scale).round().to(dtype) if dtype == torch.int8 else (value / scale).to(dtype)
    return data, scale.squeeze() if not per_row else scale.flatten(), data.float() * scale


def old(stem: str, data: Tensor, scale: Tensor) -> Weights:
    """ComfyUI's first spelling: with a scale of the inputs, and rows' scales as a column."""
    column = scale[:, None] if scale.ndim else scale
    return {f"{stem}.weight": data, f"{stem}.scale_weight": column, f"{stem}.scale_input": torch.tensor(1.0)}


def new(stem: str, data: Tensor, scale: Tensor) -> Weights:
    """Its second spelling, with a scale of the inputs."""
    return {f"{stem}.weight": data, f"{stem}.weight_scale": scale, f"{stem}.input_scale": torch.tensor(1.0)}


def marked(stem: str, data: Tensor, scale: Tensor) -> Weights:
    """The second spelling with a layer's JSON, and bytes as the data's dtype."""
    form = {"format": "int8_tensorwise" if data.dtype == torch.int8 else "float8_e4m3fn"}
    mark = torch.tensor(list(json.dumps(form).encode()), dtype=torch.uint8)
    data = data if data.dtype == torch.int8 else data.view(torch.uint8)
    return {f"{stem}.weight": data, f"{stem}.weight_scale": scale, f"{stem}.comfy_quant": mark}


def half_floats(kind: str) -> list[int]:
    """Where a block of a GGUF type has its scales, as bytes of 16-bit floats."""
    two = {name: [0, 2] for name in ("Q4_1", "Q5_1", "Q4_K", "Q5_K")}
    return (two | {"Q2_K": [80, 82], "Q3_K": [108], "Q6_K": [208]}).get(kind, [0])


def blocks(shape: tuple[int, ...], kind: str, seed: int = 0) -> Any:
    """Random bytes of a GGUF type, whose scales are small numbers, for a weight of this shape."""
    import gguf
    import numpy as np

    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    chance = np.random.default_rng(seed)
    out = chance.integers(0, 256, (*shape[:-1], shape[-1] // block, size), dtype=np.uint8)
    for at in half_floats(kind):
        scales = chance.uniform(2e-5, 2e-4, out.shape[:-1]).astype(np.float16)
        out[..., at : at + 2] = scales[..., None].view(np.uint8)
    return out.reshape(*shape[:-1], -1)


def write_gguf(path: Path, tensors: dict[str, Any], kinds: dict[str, str], shapes: Any = ()) -> Path:
    """Writes a GGUF file.

    Args:
        path: The file.
        tensors: Plain weights as tensors, others as arrays of bytes.
        kinds: Types of those that are bytes.
        shapes: Shapes of weights that were cut into other rows.
    """
    import gguf

    writer = gguf.GGUFWriter(path, "flux")
    for name, shape in dict(shapes).items():
        writer.add_array(f"comfy.gguf.orig_shape.{name}", list(shape))
    for name, value in tensors.items():
        if name in kinds:
            writer.add_tensor(name, value, raw_dtype=gguf.GGMLQuantizationType[kinds[name]])
        elif value.dtype == torch.bfloat16:
            raw = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(name, value.contiguous().view(torch.uint8).numpy(), raw_dtype=raw)
        else:
            writer.add_tensor(name, value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_numbers(data: Any, kind: str) -> Tensor:
    """The numbers of blocks by the package gguf."""
    import gguf

    return torch.from_numpy(gguf.dequantize(data, gguf.GGMLQuantizationType[kind]).copy())


def save(path: Path, weights: Weights, metadata: dict[str, str] | None = None) -> Path:
    """Writes a safetensors file."""
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, path, metadata)
    return path
