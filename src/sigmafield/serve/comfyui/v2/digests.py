"""What files are: their BLAKE3 digest, and whether they are files of weights that can be read safely."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from blake3 import blake3

PREFIX = "blake3:"
"""What a digest begins with."""

LARGEST_HEADER = 100 * 2**20
"""Bytes of the header of a file of weights."""


def digest(path: Path) -> str:
    """The digest of a file: "blake3:" and 64 hexadecimal digits."""
    made = blake3()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            made.update(chunk)
    return PREFIX + made.hexdigest()


def is_safetensors(path: Path) -> bool:
    """Whether a file has the header of safetensors, with the type, shape and position of each tensor."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 1 < length <= min(LARGEST_HEADER, size - 8):
            return False
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            return False
    if not isinstance(header, dict):
        return False
    return all(_is_tensor(each, size - 8 - length) for name, each in header.items() if name != "__metadata__")


def _is_tensor(entry: Any, bytes_of_data: int) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, where = entry.get("shape"), entry.get("data_offsets")
    return (
        isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
        and isinstance(where, list) and len(where) == 2 and all(type(n) is int for n in where)
        and 0 <= where[0] <= where[1] <= bytes_of_data
    )  # fmt: skip
