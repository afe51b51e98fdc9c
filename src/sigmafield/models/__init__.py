"""Loading a model: the shipped one, or Stable Diffusion 1, 2 and XL in diffusers' layout."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from sigmafield.maths import near_miss
from sigmafield.models.directory import TINY, nearby, needed
from sigmafield.models.inversion import check_folder
from sigmafield.models.pipeline import Pipeline
from sigmafield.models.tiny import load_tiny

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
Loras = Mapping[Any, float] | Sequence[tuple[Any, float]]
"""Strengths of LoRA files by their paths, or pairs of both, in order."""

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def load(
    model: str | Path = TINY,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    embeddings: str | Path | None = None,
    loras: Loras = (),
) -> Pipeline:
    """A model, ready to sample with.

    model: "tiny" (shipped, 64x64 pixels), a directory in diffusers' layout or a hub id such as "org/name".
    device: cpu, cuda, cuda:1, mps; None takes the first there is of cuda, mps, cpu.
    dtype: float32, float16, bfloat16; None is float32 for "tiny" and on the CPU, float16 otherwise.
    embeddings: directory of textual inversions, for `embedding:name` in prompts.
    loras: strengths of LoRA files by their paths, merged into the weights in that order; any number, 0 = without.

    Raises ValueError for an argument or a model that is not supported, FileNotFoundError for what is missing,
    ImportError where a model needs packages that are not installed, ConnectionError where a hub id cannot be had.
    """
    place, folder, pairs = choose_device(device), check_folder(embeddings), check_loras(loras)
    if not pairs:
        return load_plain(model, place, dtype, folder)
    from sigmafield.models.diffusers.lora import merge_lora  # slow to import, and an extra

    pipe = load_plain(model, place, dtype, folder)
    for path, strength in pairs:
        merge_lora(pipe.modules, Path(path).expanduser(), strength)
    return replace(pipe, loras=pairs)


def check_loras(loras: Loras) -> list[tuple[str, float]]:
    """Paths and strengths. Raises FileNotFoundError for no file, ValueError for a strength that is not finite."""
    pairs = [(str(path), float(s)) for path, s in (loras.items() if isinstance(loras, Mapping) else loras)]
    for path, strength in pairs:
        needed(Path(path).expanduser())
        if not math.isfinite(strength):
            raise ValueError(f"LoRA '{path}': its strength must be a finite number; got {strength}")
    return pairs


def load_plain(
    model: str | Path, place: torch.device, dtype: str | torch.dtype | None, embeddings: Path | None
) -> Pipeline:
    """A model as its own files have it."""
    if model == TINY:
        return load_tiny(
            Path(str(files("sigmafield"))) / "data" / TINY, place, choose_dtype(dtype, torch.float32), embeddings
        )
    precision = choose_dtype(dtype, torch.float32 if place.type == "cpu" else torch.float16)
    path = Path(model).expanduser()
    if path.is_file():
        raise ValueError(refusal(path))
    if not path.is_dir() and not (isinstance(model, str) and HUB_ID.fullmatch(model)):
        raise FileNotFoundError(f"model {str(model)!r}: no such directory, and no hub id like 'org/name'{nearby(path)}")
    from sigmafield.models.diffusers import load_diffusers  # slow to import, and an extra

    return load_diffusers(path if path.is_dir() else str(model), place, precision, embeddings)


def refusal(path: Path) -> str:
    """Why a single file is not loaded."""
    if path.suffix == ".safetensors":
        return f"model '{path}': single-file checkpoints are not supported yet; pass a directory in diffusers' layout"
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        return f"model '{path}': a pickle can run any code and is not opened; pass a directory in diffusers' layout"
    return f"model '{path}' is a file; pass a directory in diffusers' layout"


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the best one. Raises ValueError for one that is unknown or not available."""
    ready = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    there = [name for name, is_there in ready.items() if is_there]
    if device is None:
        return torch.device(there[0])
    kind, _, index = str(device).partition(":")
    if kind not in ready or (index and not index.isdecimal()):
        raise ValueError(f"unknown device {str(device)!r}{near_miss(kind, ('cuda', 'mps', 'cpu'))}")
    if kind not in there:
        raise ValueError(f"device {str(device)!r} is not available here; available: {', '.join(there)}")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise ValueError(f"device {str(device)!r}: there are {torch.cuda.device_count()} cuda devices, numbered from 0")
    return torch.device(device)


def choose_dtype(dtype: str | torch.dtype | None, default: torch.dtype) -> torch.dtype:
    """The dtype asked for, or the default. Raises ValueError for one that is unknown."""
    if dtype is None:
        return default
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}{near_miss(name, DTYPES)}")
    return DTYPES[name]
