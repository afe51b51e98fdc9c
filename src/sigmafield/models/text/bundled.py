"""Textual inversions that a LoRA's file holds as well, by the names that prompts give them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor


class Inversion(NamedTuple):
    """A textual inversion.

    Args:
        file: The file that holds it.
        vectors: Its vectors [n, width] by the encoders' names: clip_l, clip_g.
    """

    file: Path
    vectors: Mapping[str, Tensor]

    def of(self, name: str, encoder: str) -> Tensor:
        """Its vectors for an encoder; raises ValueError if it does not have any."""
        if encoder not in self.vectors:
            there = " and ".join(self.vectors)
            raise ValueError(f"embedding:{name}: {self.file} has vectors for {there}, and not for {encoder}")
        return self.vectors[encoder]


Bundled = Mapping[str, Inversion]
"""Textual inversions by the names that prompts give them."""

NONE: Bundled = MappingProxyType({})


def prompt_name(name: str) -> str:
    """What a prompt calls a textual inversion: its name with _ for each character that ends a name there."""
    return re.sub(r"[\s,]|[.;:!?](?=[.;:!?]*$)", "_", name)


def together(*groups: Bundled) -> Bundled:
    """All textual inversions of several files.

    Raises:
        ValueError: If two files have one of the same name with other vectors.
    """
    out: dict[str, Inversion] = {}
    for name, inversion in (pair for group in groups for pair in group.items()):
        other = out.setdefault(name, inversion)
        if not same(other.vectors, inversion.vectors):
            raise ValueError(f"{other.file} and {inversion.file} have different vectors for embedding:{name}")
    return out


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two textual inversions have the same vectors."""
    return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of vectors have the same numbers, in whatever dtype."""
    return one.shape == other.shape and torch.equal(one.float(), other.float())
