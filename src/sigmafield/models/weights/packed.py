"""Weights in the form in which a file holds them, and the rules that make numbers of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

BYTES = {
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
    "int8": torch.int8,
}
"""Kinds whose data are one byte per value, and the dtypes of the bytes."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A quantised weight.

    Args:
        kind: Its kind: float8_e4m3fn, float8_e5m2, int8, or a type of GGUF such as Q4_K.
        codes: The bytes, uint8: [rows, …] with as many as values for kinds of one byte, [rows, bytes] for blocks. A
            file may lay blocks out in other rows than the weight's.
        scale: Factor of the values, float32: a number, or one per row; None: 1.
        shape: The weight's shape.
    """

    kind: str
    codes: Tensor
    scale: Tensor | None
    shape: torch.Size

    def rows(self, index: Tensor) -> Packed:
        """The weight with these rows of its own only, in this order.

        Raises:
            ValueError: If its blocks lie across its rows.
        """
        if len(self.codes) != self.shape[0]:
            raise ValueError(f"a weight in blocks of {self.kind} that lie across its rows cannot be divided")
        per_row = self.scale is not None and self.scale.ndim > 0
        scale = self.scale[index] if self.scale is not None and per_row else self.scale
        return replace(self, codes=self.codes[index], scale=scale, shape=torch.Size([len(index), *self.shape[1:]]))


Value = Tensor | Packed
"""A weight as a file holds it."""


def unpacked(value: Value) -> Tensor:
    """The numbers of a weight: a plain one as it is, a quantised one in float32."""
    if isinstance(value, Tensor):
        return value
    if value.kind in BYTES:
        out = value.codes.view(BYTES[value.kind]).float()
    else:
        rule, block, size = block_rule(value.kind)
        out = rule(value.codes.reshape(-1, size), block, size, dtype=torch.float32)
    out = out.reshape(value.shape)
    if value.scale is None:
        return out
    return out.mul_(value.scale.reshape(-1, *[1] * (out.ndim - 1)) if value.scale.ndim else value.scale)


@cache
def block_rules() -> dict[str, Any]:
    """The functions of diffusers that dequantise GGUF's blocks with torch, on any device, by type."""
    from diffusers.quantizers.gguf.utils import dequantize_functions  # needs gguf, an extra

    return {kind.name: rule for kind, rule in dequantize_functions.items()}


@cache
def block_rule(kind: str) -> tuple[Any, int, int]:
    """The function that dequantises a type of GGUF, the values of a block, and its bytes."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType  # an extra

    return block_rules()[kind], *GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
