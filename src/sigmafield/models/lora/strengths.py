"""Which LoRAs a pipeline has, and how strong they are: paths and pairs of numbers, before any file is read."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Strengths(NamedTuple):
    """Factors of what a LoRA adds to the weights of the network and to those of the text encoders."""

    network: float
    text: float


LoraPath = str | Path
Loras = (
    Mapping[LoraPath, float | tuple[float, float]] | Sequence[LoraPath | tuple[LoraPath, float | tuple[float, float]]]
)
"""LoRA files with their strengths, in order: a mapping, or a list of pairs or of paths alone, whose strength is 1.
A strength is one number, or a pair of the network's and the text encoders'."""


def check_loras(loras: Loras, known: Collection[str] = ()) -> list[tuple[str, Strengths]]:
    """Gives the paths and strengths of LoRAs as pairs.

    Args:
        loras: The files with their strengths.
        known: Files that were read before and need not exist any more.

    Raises:
        FileNotFoundError: If a file is missing.
        TypeError: If an entry is not a path with its strength.
        ValueError: If a strength is not finite.
    """
    if isinstance(loras, str | Path) or not isinstance(loras, Mapping | Sequence):
        hint = ": put it in a list" if isinstance(loras, str | Path) else ""
        raise TypeError(f"loras must be a mapping of paths to strengths, or a list; got {str(loras)!r}{hint}")
    entries = list(loras.items()) if isinstance(loras, Mapping) else [_pair(entry) for entry in loras]
    pairs = [(str(path), _strengths(str(path), strength)) for path, strength in entries]
    for path, strengths in pairs:
        if path not in known:
            lora_file(path)
        for name, value in zip(Strengths._fields, strengths):
            if not math.isfinite(value):
                raise ValueError(f"LoRA '{path}': its {name} strength must be a finite number; got {value}")
    return pairs


def lora_file(path: str) -> Path:
    """The file of a LoRA; raises FileNotFoundError if it does not exist."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"LoRA {path!r}: no such file")
    return file


def _pair(entry: Any) -> tuple[LoraPath, Any]:
    if isinstance(entry, str | Path):
        return entry, 1.0
    if isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[0], str | Path):
        return entry[0], entry[1]
    raise TypeError(f"an entry of loras must be a path, or a path and its strength; got {entry!r}")


def _strengths(path: str, given: Any) -> Strengths:
    both = given if isinstance(given, tuple | list) else (given, given)
    try:
        network, text = (float(value) for value in both)
    except (TypeError, ValueError):
        rule = "must be a number, or two: the network's and the text encoders'"
        raise TypeError(f"LoRA '{path}': its strength {rule}; got {given!r}") from None
    return Strengths(network, text)
