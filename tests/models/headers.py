"""Files of weights that have a header and no numbers: the rest of the file is a hole, so true sizes cost nothing."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from math import prod
from pathlib import Path

Shapes = Mapping[str, tuple[int, ...]]
LAYOUTS = Path(__file__).parents[1] / "data" / "layouts"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "I32": 4, "I64": 8}


def published(family: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a published checkpoint: sd1 or sdxl."""
    lines = lzma.decompress((LAYOUTS / f"{family}.txt.xz").read_bytes()).decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines)
    return {name: tuple(int(n) for n in shape.split("x") if n) for name, _, shape in pairs}


def numbers(shape: tuple[int, ...]) -> int:
    """How many numbers a weight of this shape has."""
    return prod(shape)


def write(
    path: Path,
    shapes: Shapes,
    dtype: str = "F16",
    metadata: Mapping[str, str] | None = None,
    dtypes: Mapping[str, str] | None = None,
) -> Path:
    """A safetensors file with weights of these shapes, all 0.

    Args:
        path: The file.
        shapes: Shapes by name.
        dtype: Dtype of the weights.
        metadata: Entries of the header.
        dtypes: Other dtypes of some weights.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        kind = (dtypes or {}).get(name, dtype)
        begin, end = end, end + prod(shape) * BYTES[kind]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path
