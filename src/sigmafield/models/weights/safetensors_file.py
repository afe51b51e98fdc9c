"""Reads the header and the weights of safetensors files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sigmafield.models.weights.broken import not_safetensors
from sigmafield.models.weights.kinds import (
    Entry,
    Header,
    Quantisation,
    formats_of,
    is_mark,
    is_scale,
    kind_of,
    quantisation,
    scale_of,
)
from sigmafield.models.weights.packed import BYTES, Packed, Value

MOST = 2**16
"""Bytes of the longest JSON of a layer."""


@dataclass(frozen=True)
class SafetensorsFile:
    """A safetensors file, of which the header has been read.

    Args:
        path: The file.
        all: All its tensors.
        metadata: The entries of its header.
        formats: The JSON of each layer that has any.
    """

    path: Path
    all: Header
    metadata: Mapping[str, str]
    formats: Mapping[str, Mapping[str, Any]]

    @cached_property
    def header(self) -> Header:
        """The weights, without their scales and marks."""
        return {name: entry for name, entry in self.all.items() if not is_mark(name) and not is_scale(name, self.all)}

    @cached_property
    def quantisation(self) -> Quantisation:
        """How the weights are quantised."""
        return quantisation(self.all, self.formats)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Value]]:
        """Reads weights one after another."""
        with safe_open(self.path, "pt") as file:
            for name in names:
                kind = kind_of(name, self.all, self.form(name)).partition(",")[0]
                scale = scale_of(name, self.all)
                yield name, joined(kind, file.get_tensor(name), file.get_tensor(scale) if scale else None)

    def form(self, name: str) -> Mapping[str, Any]:
        """The JSON of a weight's layer."""
        return self.formats.get(name.removesuffix(".weight"), {})


def joined(kind: str, data: Tensor, scale: Tensor | None) -> Value:
    """A weight of its data and its scale."""
    if scale is not None:
        scale = scale.float().reshape(()) if scale.numel() == 1 else scale.float().flatten()
    if kind in BYTES:
        return Packed(
            kind, data.view(torch.uint8).clone(), scale, data.shape
        )  # memory of its own, not a map of the file
    if scale is None:
        return data
    return (data.float() * scale.reshape(-1, *[1] * (data.ndim - 1) if scale.ndim else ())).to(data.dtype)


def open_safetensors(path: Path) -> SafetensorsFile:
    """Reads the header of a safetensors file.

    Raises:
        ValueError: If it is not one, or its own entries are broken.
    """
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            header = {name: Entry(str(part.get_dtype()), tuple(part.get_shape())) for name, part in slices.items()}
            metadata = file.metadata() or {}
            formats = formats_of(metadata)
            for name, entry in header.items():
                if name.endswith(".comfy_quant"):
                    formats[name.removesuffix(".comfy_quant")] = form_in(file, name, entry)
    except SafetensorError as error:
        raise not_safetensors(path, error) from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return SafetensorsFile(path, header, metadata, formats)


def form_in(file: Any, name: str, entry: Entry) -> dict[str, Any]:
    """The JSON in a tensor; raises ValueError if it is not a dictionary in JSON."""
    try:
        if entry.dtype != "U8" or len(entry.shape) != 1 or entry.shape[0] > MOST:
            raise ValueError(f"{entry.dtype} {entry.shape}")
        return dict(json.loads(bytes(file.get_tensor(name).tolist())))
    except (RecursionError, TypeError, ValueError):
        raise ValueError(f"{name} is not the JSON that it should be") from None
