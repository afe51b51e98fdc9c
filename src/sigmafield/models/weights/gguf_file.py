"""Reads GGUF files: the header and blocks by the package gguf, types that torch has no rule for by its dequantisers.

Names and shapes are those of the network, as stable-diffusion.cpp and ComfyUI-GGUF write them; a weight that was cut
into other rows has its shape in the header, as comfy.gguf.orig_shape.NAME. T5 has the names of llama.cpp.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sigmafield.models.weights.gguf_header import MAGIC, Cut, check_header
from sigmafield.models.weights.kinds import Entry, Header, Quantisation, ggml_quantisation
from sigmafield.models.weights.packed import Packed, Value, block_rules

ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
PLAIN = ("F16", "F32", "F64", "I8", "I16", "I32", "I64")
"""Types that numpy has."""

FIRST_OF_T5 = "enc.blk.0.attn_q.weight"
OUTSIDE_T5 = ("shared", "encoder.final_layer_norm")
IN_T5 = (
    *(f"0.SelfAttention.{name}" for name in ("q", "k", "v", "o", "relative_attention_bias")), "0.layer_norm",
    *(f"1.DenseReluDense.{name}" for name in ("wi_0", "wi_1", "wo")), "1.layer_norm",
)  # fmt: skip
"""T5's layers by transformers' names, and those of each of its blocks."""


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file, of which the header has been read.

    Args:
        path: The file.
        tensors: The package's tensors, which are maps of the file.
        header: The types and shapes of the weights.
        metadata: Texts and numbers of the header.
    """

    path: Path
    tensors: Mapping[str, Any]
    header: Header
    metadata: Mapping[str, str]

    @cached_property
    def quantisation(self) -> Quantisation:
        """How the weights are quantised."""
        return ggml_quantisation(self.header)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Value]]:
        """Reads weights one after another; types without a rule in torch are dequantised to float32."""
        for name in names:
            kind, shape = self.header[name]
            data = self.tensors[name].data
            if kind in PLAIN:
                yield name, torch.from_numpy(np.array(data)).reshape(shape)
            elif kind == "BF16":
                yield name, torch.from_numpy(np.array(data)).view(torch.bfloat16).reshape(shape)
            elif kind in block_rules():
                codes = torch.from_numpy(np.array(data)).reshape(-1, data.shape[-1])
                yield name, Packed(kind, codes, None, torch.Size(shape))
            else:
                yield name, torch.from_numpy(self.dequantised(name)).reshape(shape)

    def dequantised(self, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The numbers of a weight by the package's own dequantiser; raises ValueError for a type that has none."""
        from gguf import dequantize  # an extra

        tensor = self.tensors[name]
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                return np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
        except NotImplementedError:
            raise ValueError(
                f"{self.path}: {name} is of type {tensor.tensor_type.name}, which gguf cannot read"
            ) from None


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is a pipe, a socket or a device, of which reading may never end.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is a pipe, a socket or a device; it must be a regular file")
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def open_gguf(path: Path) -> GgufFile:
    """Reads the header of a GGUF file.

    Raises:
        ImportError: If the package gguf is not installed.
        ValueError: If it is not one.
    """
    try:
        from gguf import GGML_QUANT_SIZES, GGUFReader  # an extra
    except ImportError as error:
        raise ImportError(f'{path} needs the package gguf:\npip install "sigmafield[gguf]"') from error
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            check_header(path, {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()})
            reader = GGUFReader(path)
            tensors = {tensor.name: tensor for tensor in reader.tensors}
            header = {name: entry_of(reader, tensor) for name, tensor in tensors.items()}
            metadata = {name: str(field.contents()) for name, field in reader.fields.items() if len(field.data) == 1}
    except Exception as error:  # whatever the package raises on bytes that it does not expect
        if isinstance(error, Cut):
            raise ValueError(f"{path} is not a GGUF file ({error}); was it downloaded in full?") from None
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{path} is not a GGUF file ({why})") from None
    return GgufFile(path, tensors, header, metadata)


def entry_of(reader: Any, tensor: Any) -> Entry:
    """The type and the shape of a tensor; its axes are stored from the last to the first."""
    shape = tuple(int(n) for n in reversed(tensor.shape.tolist()))
    original = reader.get_field(ORIGINAL_SHAPE + tensor.name)
    if original is not None:
        shape = tuple(int(n) for n in original.contents())
    if prod(shape) != tensor.n_elements or tensor.data.nbytes != tensor.n_bytes:
        raise ValueError(f"{tensor.name} is not {'×'.join(map(str, shape))} of {tensor.tensor_type.name}")
    return Entry(tensor.tensor_type.name, shape)


def t5_names(stored: Collection[str]) -> dict[str, str]:
    """llama.cpp's names of T5's weights → those of transformers, as the package gguf pairs them; {} for other names."""
    if FIRST_OF_T5 not in stored:
        return {}
    from gguf import MODEL_ARCH, get_tensor_name_map  # an extra

    layers = sum(name.endswith(".attn_q.weight") for name in stored)
    wanted = [*OUTSIDE_T5, *(f"encoder.block.{i}.layer.{part}" for i in range(layers) for part in IN_T5)]
    known = get_tensor_name_map(MODEL_ARCH.T5ENCODER, layers)
    pairs = {known.get_name(name): name for name in wanted}
    return {f"{theirs}.weight": f"{name}.weight" for theirs, name in pairs.items()}
