"""Says what a file of weights is, from its header alone: no weights are read, no pickle is opened."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

from sigmafield.models.inspection.additions import control_net, ip_adapter, lora, textual_inversion
from sigmafield.models.inspection.models import model, preview_decoder, something_else, text_encoder, vae
from sigmafield.models.inspection.report import Found, Inspected, Kind, Part
from sigmafield.models.lora.describe import LONG, TAGS, TRAINING
from sigmafield.models.single_file.ema import ema_names
from sigmafield.models.single_file.layouts import Shapes
from sigmafield.models.weights.files import ENDINGS, check_ending
from sigmafield.models.weights.gguf_file import GgufFile, is_gguf, open_gguf, t5_names
from sigmafield.models.weights.kinds import FLOATS, Entry, Header
from sigmafield.models.weights.safetensors_file import SafetensorsFile, open_safetensors

USES: dict[Kind, str] = {
    "checkpoint": "--model {path}", "network": "--model {path}", "LoRA": "--lora {path}",
    "control net": "--controlnet net={path},image=…", "textual inversion": '--embeddings {folder}, "embedding:{stem}"',
    "preview decoder": "--preview-decoder {path}", "IP-Adapter": "--ip-adapter net={path},encoder=…,image=…",
}  # fmt: skip
"""How files are given on the command line."""

BITS = {"F64": 64, "F32": 32, "I64": 64, "U64": 64, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
BITS |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
"""Bits of a number by its dtype in safetensors' headers; 8 of others."""

SHARD = re.compile(r"-0*(\d+)-of-0*(\d+)$")
"""How the name of one of several files of a model ends."""

RECOGNISERS: tuple[Callable[[Shapes], Found | None], ...] = (
    model, vae, textual_inversion, preview_decoder, text_encoder,
)  # fmt: skip
"""How files other than control nets and LoRAs are recognised, in this order."""


def inspect(path: str | Path) -> Inspected:
    """Says what a file of weights is: a checkpoint, a part of a model, a LoRA, a control net, ….

    Only the header is read.

    Args:
        path: A .safetensors, .sft or .gguf file.

    Raises:
        ValueError: If it is not such a file, or a broken one.
        OSError: If it cannot be read.
        ImportError: If a GGUF file is given and the package gguf is not installed.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: sigmafield models lists what is in it")
    check_ending(path)
    file = open_gguf(path) if is_gguf(path) else open_safetensors(path)
    header, quantisation = file.header, file.quantisation
    names = t5_names(header) if isinstance(file, GgufFile) else ema_names(header)
    stored = {names.get(name, name): name for name in header}
    found = recognised({name: header[own].shape for name, own in stored.items()}, file.metadata)
    sizes = sizes_of(file, header)
    kept, numbers = kept_and_numbers(header, sizes)
    problem = problem_of(path, found, quantisation.unsupported)
    return Inspected(
        str(path),
        "gguf" if isinstance(file, GgufFile) else "safetensors",
        found.kind,
        tuple(found.families),
        tuple(parts_of(found, stored, header, sizes)),
        str(quantisation),
        quantisation.quantised,
        sum(prod(entry.shape) for entry in header.values()),
        path.stat().st_size,
        {"half": kept + 2 * numbers, "float32": kept + 4 * numbers},
        tuple(found.missing),
        problem,
        None if problem else use_of(path, found.kind),
        found.facts,
        tuple(found.lora.words) if found.lora else (),
        {k: v for k, v in file.metadata.items() if k.startswith(TRAINING) and len(v) <= LONG and k != TAGS},
        found.lora,
    )


def recognised(shapes: Shapes, metadata: Mapping[str, str]) -> Found:
    """What a file with weights of these shapes is."""
    found = control_net(shapes) or ip_adapter(shapes) or lora(shapes, metadata)
    if found is not None:
        return found
    return next((known for known in (each(shapes) for each in RECOGNISERS) if known), None) or something_else(shapes)


def sizes_of(file: SafetensorsFile | GgufFile, header: Header) -> dict[str, int]:
    """Bytes that each weight takes in the file."""
    if isinstance(file, GgufFile):
        return {name: int(tensor.n_bytes) for name, tensor in file.tensors.items()}
    return {name: size_of(entry) for name, entry in header.items()}


def size_of(entry: Entry) -> int:
    """Bytes of a tensor of a safetensors file."""
    return -(-prod(entry.shape) * BITS.get(entry.dtype, 8) // 8)


def kept_and_numbers(header: Header, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Bytes of the weights that stay quantised when loaded, and how many numbers there are in addition to them."""
    packed = {name for name, entry in header.items() if entry.dtype not in FLOATS and len(entry.shape) > 1}
    numbers = sum(prod(entry.shape) for name, entry in header.items() if name not in packed)
    return sum(sizes[name] for name in packed), numbers


def parts_of(found: Found, stored: Mapping[str, str], header: Header, sizes: Mapping[str, int]) -> list[Part]:
    """The parts of a model in a file, and what is in none of them.

    Args:
        found: What the file is, with the beginnings of names of each part.
        stored: Name of a weight → name in the file.
        header: Dtypes and shapes by the names in the file.
        sizes: Bytes by the names in the file.
    """
    members: dict[str, list[str]] = {part: [] for part in (*found.prefixes, "other")}
    longest = sorted(found.prefixes.items(), key=lambda pair: -len(pair[1]))  # an empty prefix takes what is left
    for name, own in stored.items():
        members[next((part for part, prefix in longest if name.startswith(prefix)), "other")].append(own)
    return [
        Part(part, sum(prod(header[own].shape) for own in owns), sum(sizes[own] for own in owns))
        for part, owns in members.items()
        if owns
    ]


def problem_of(path: Path, found: Found, unsupported: str | None) -> str | None:
    """Why a file cannot be loaded; None: it can."""
    if unsupported is not None:
        return f"quantised by {unsupported}, which is not supported"
    shard = SHARD.search(path.stem)
    if shard:
        return f"number {shard[1]} of {shard[2]} files of one model: give the directory that has them all"
    return found.problem


def use_of(path: Path, kind: Kind) -> str | None:
    """How a file of a kind is given on the command line; None: it is not."""
    form = USES.get(kind)
    return form and form.format(path=path, folder=path.parent, stem=path.stem)


def is_weights(path: Path) -> bool:
    """Whether a file is one of weights by its ending."""
    return path.suffix.lower() in ENDINGS
