"""Why a file of weights cannot be read, and whether it may be the beginning of a longer one."""

from __future__ import annotations

import json
from pathlib import Path

PICKLES = (".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl")
"""Endings of files that can run any code when they are opened."""

LENGTH = 8
"""Bytes of the number at the beginning of a safetensors file: the length of its header."""


def not_safetensors(path: Path, error: Exception) -> ValueError:
    """The error for a file that is not a safetensors file: a pickle, or one that is shorter than it claims."""
    if path.suffix.lower() in PICKLES:
        return ValueError(f"{path}: a pickle can run any code and is not opened; convert it to .safetensors")
    hint = "; was it downloaded in full?" if is_cut(path) else ""
    return ValueError(f"{path} is not a safetensors file ({error}){hint}")


def is_cut(path: Path) -> bool:
    """Whether a safetensors file ends before the end that its header gives."""
    size = path.stat().st_size
    with path.open("rb") as file:
        begins = LENGTH + int.from_bytes(file.read(LENGTH), "little")
        if size < LENGTH or size < begins:
            return True
        try:
            header = json.loads(file.read(begins - LENGTH))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return begins + max(ends, default=0) > size
        except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError):
            return False
