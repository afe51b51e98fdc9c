"""Tells from the header of a file how its weights are quantised. Reads no weights.

Scaled weights are data × scale, with the scale next to the data under one of two spellings:

    NAME.weight, NAME.scale_weight, NAME.scale_input, and an empty tensor scaled_fp8 for the whole file
    NAME.weight, NAME.weight_scale, NAME.input_scale, NAME.comfy_quant (JSON), or all layers' JSON in the header

A scale is one number, or one per row (output channel). GGUF's types are blocks that hold their own scales.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

SCALES = ("scale_weight", "weight_scale")
"""Last parts of the names of a weight's scale, in the order in which the spellings came up."""

MARKS = ("scale_input", "input_scale", "scaled_fp8", "comfy_quant", "spiece_model", "tekken_model", "tokenizer_json")
"""Last parts of the names of tensors that are no weights: scales of inputs, marks, and the tokenizer of a T5."""

FLOATS = ("F16", "BF16", "F32", "F64")
FLOAT8 = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
"""8-bit floats by their names in safetensors' headers and in torch."""

FORMATS = {
    **{name: name for name in FLOAT8.values()},
    "float8_e4m3fn_rowwise": "float8_e4m3fn",
    "int8_tensorwise": "int8",
}
"""What a layer's JSON calls the formats that are read, and what its data are."""

HARMLESS = {"format", "full_precision_matrix_mult", "orig_dtype", "orig_shape"}
"""Entries of a layer's JSON that do not change what its weight is."""

METADATA = "_quantization_metadata"
NO_FORMATS: Mapping[str, Mapping[str, Any]] = {}

UNSUPPORTED = {
    r"\.weight\.(absmax|quant_map|quant_state|nested_absmax)": "bitsandbytes' 4 bits (nf4, fp4)",
    r"\.(SCB|weight_format)$": "bitsandbytes' 8 bits",
    r"\.(wscales|smooth_factor|proj_down|lora_down)$|\.qweight_scale": "SVDQuant",
    r"\.(qweight|qzeros|g_idx)$": "GPTQ or AWQ",
    r"\.weight_(packed|global_scale)$": "compressed-tensors",
    r"\.weight_scale_2$": "NVFP4",
    r"\.weight_(s_rel|s_channel|codebook)$": "4 bits with a codebook",
    r"\.weight\._(data|scale|shift)$": "quanto",
    r"\.(weight_)?zero_point$": "integers with zero points",
    r"\.pre_quant_scale$": "weights scaled by their inputs (pre_quant_scale)",
}
"""Ways to quantise that are not read, by a pattern of names that only they have."""
ANY_UNSUPPORTED = re.compile("|".join(UNSUPPORTED))


class Entry(NamedTuple):
    """A tensor of a file.

    Args:
        dtype: safetensors' name of it (F16, F8_E4M3, …) or GGUF's (F16, Q4_K, …).
        shape: Its shape.
    """

    dtype: str
    shape: tuple[int, ...]


Header = Mapping[str, Entry]


@dataclass(frozen=True)
class Quantisation:
    """How the weights of a file are quantised.

    Args:
        kinds: Each kind of the weights of two and more axes, with the number of its values; for scaled ones also how,
            such as "float8_e4m3fn, a scale per tensor".
        unsupported: The first kind that is not read, with the name of a weight; None if all are.
    """

    kinds: Mapping[str, int] = field(default_factory=dict)
    unsupported: str | None = None

    @property
    def quantised(self) -> bool:
        """Whether any weights have another form than plain floats of 16 bits and more."""
        return self.unsupported is not None or any(kind not in FLOATS for kind in self.kinds)

    def __str__(self) -> str:
        if self.unsupported is not None:
            return self.unsupported
        return ", ".join(sorted(self.kinds, key=lambda kind: -self.kinds[kind])) or "no weights"


def ggml_quantisation(header: Header) -> Quantisation:
    """Tells how the weights of a GGUF file are quantised."""
    kinds: Counter[str] = Counter()
    for entry in header.values():
        kinds[entry.dtype] += prod(entry.shape) if len(entry.shape) > 1 else 0
    return Quantisation(+kinds)


def quantisation(header: Header, formats: Mapping[str, Mapping[str, Any]] = NO_FORMATS) -> Quantisation:
    """Tells how the weights of a safetensors file are quantised.

    Args:
        header: Its tensors.
        formats: The JSON of each layer that has any, by the layer's name.
    """
    kinds: Counter[str] = Counter()
    suspects = [name for name in header if ANY_UNSUPPORTED.search(name)]
    for pattern, what in UNSUPPORTED.items():
        name = next((name for name in suspects if re.search(pattern, name)), None)
        if name is not None:
            return Quantisation(unsupported=f"{what} ({name})")
    for name, entry in header.items():
        if is_mark(name) or is_scale(name, header):
            continue
        try:
            kind = kind_of(name, header, formats.get(name.removesuffix(".weight"), {}))
        except ValueError as error:
            return Quantisation(unsupported=f"{error} ({name})")
        kinds[kind] += prod(entry.shape) if len(entry.shape) > 1 else 0
    return Quantisation(+kinds)


def kind_of(name: str, header: Header, form: Mapping[str, Any]) -> str:
    """Names the kind of one weight.

    Args:
        name: The weight.
        header: The tensors of its file.
        form: The JSON of its layer; {} where there is not any.

    Raises:
        ValueError: If it is quantised in a way that is not read; the message names the way.
    """
    entry, scale = header[name], scale_of(name, header)
    known = FORMATS.get(form.get("format", ""))
    if form.get("format") is not None and known is None:
        raise ValueError(str(form["format"]))
    if form.keys() - HARMLESS:
        raise ValueError(f"{form.get('format')} with {', '.join(sorted(form.keys() - HARMLESS))}")
    data = {**FLOAT8, "I8": "int8"}.get(entry.dtype)
    if entry.dtype == "U8" and known:  # bytes that hold the format's numbers
        data = known
    if data == "int8" and (known != "int8" or scale is None):
        raise ValueError("8-bit integers")
    if data is None and (known or entry.dtype in ("U8", "I8") or entry.dtype[:2] in ("F4", "F6", "F8")):
        raise ValueError(f"{form.get('format') or entry.dtype.lower()}")
    if scale is None:
        return data or entry.dtype
    each, n = prod(header[scale].shape), entry.shape[0] if entry.shape else 1
    if each not in (1, n) or header[scale].dtype not in FLOATS:
        raise ValueError(f"{data or entry.dtype} with a scale per block")
    return f"{data or entry.dtype}, a scale per {'tensor' if each == 1 else 'row'}"


def scale_of(name: str, header: Header) -> str | None:
    """The name of a weight's scale; None if it has none.

    Raises:
        ValueError: If it has one in both spellings.
    """
    stem, _, last = name.rpartition(".")
    found = [f"{stem}.{scale}" for scale in SCALES if last == "weight" and f"{stem}.{scale}" in header]
    if len(found) > 1:
        raise ValueError(f"two scales, {SCALES[0]} and {SCALES[1]}")
    return found[0] if found else None


def is_scale(name: str, header: Header) -> bool:
    """Whether a tensor is the scale of a weight in the same file."""
    stem, _, last = name.rpartition(".")
    return last in SCALES and f"{stem}.weight" in header


def is_mark(name: str) -> bool:
    """Whether a tensor says something about weights, and is not one."""
    return name.rpartition(".")[2] in MARKS


def formats_of(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The JSON of each layer in a header; {} where it has none.

    Raises:
        ValueError: If the entry is not JSON of the form {"layers": {NAME: {…}}}.
    """
    try:
        return {name: dict(form) for name, form in json.loads(metadata.get(METADATA, "{}")).get("layers", {}).items()}
    except (AttributeError, RecursionError, TypeError, ValueError):
        raise ValueError(f"its {METADATA} is not the JSON that it should be") from None
