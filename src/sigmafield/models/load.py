"""Loading a model: the shipped one, or one of the supported families, in diffusers' layout or as a single file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from sigmafield.core.conditioning import ControlNetwork
from sigmafield.core.registry import near_miss
from sigmafield.models.bundle import Pipeline
from sigmafield.models.directory import TINY, nearby, needed
from sigmafield.models.running import check_compile, check_offload, compiled, offloaded
from sigmafield.models.text.textual_inversion import check_folder
from sigmafield.models.threads import with_threads
from sigmafield.models.tiny import load_tiny

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
Loras = Mapping[Any, float] | Sequence[tuple[Any, float]]
"""Strengths of LoRA files by their paths, or pairs of both, in order."""

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def load(
    model: str | Path = TINY,
    *,
    parts: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    offload: bool = False,
    compile: bool = False,
    max_rows: int | None = None,
    preview: str | Path | None = None,
    embeddings: str | Path | None = None,
    loras: Loras = (),
) -> Pipeline:
    """A model, ready to sample with.

    model: "tiny" (shipped, 64x64 pixels), a directory in diffusers' layout, a single .safetensors file in the layout
    that the model was published in, or a hub id such as "org/name".
    parts: a directory in diffusers' layout, for parts that a single file has not: VAE, text encoders.
    device: cpu, cuda, cuda:1, mps; None takes the first there is of cuda, mps, cpu.
    dtype: float32, float16, bfloat16; None is float32 for "tiny" and on the CPU, otherwise float16 for UNets and
    bfloat16 for transformers.
    offload: text encoders, network and VAE wait on the CPU and are on the device one at a time.
    compile: the network is compiled by torch at its first call; faster afterwards, with other last bits.
    max_rows: at most so many rows (samples times prompts) in one network call, for little memory; None: all at once.
    preview: a small decoder of the model's latents for previews: AutoencoderTiny's directory or TAESD's .safetensors.
    embeddings: directory of textual inversions, for `embedding:name` in prompts.
    loras: strengths of LoRA files by their paths, merged into the weights in that order; any number, 0 = without.

    Raises ValueError for an argument or a model that is not supported, FileNotFoundError for what is missing,
    ImportError where a model needs packages that are not installed, ConnectionError where a hub id cannot be had.
    """
    place = choose_device(device)
    if offload:
        check_offload(place)
    if compile:
        check_compile(place)
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows must be ≥ 1; got {max_rows}")
    if preview is not None and not Path(preview).expanduser().exists():
        raise FileNotFoundError(f"{preview}: no such file or directory to take a preview decoder from")
    folder, pairs = check_folder(embeddings), check_loras(loras)
    if pairs:
        from sigmafield.models.diffusers.lora import merge_lora  # slow to import, and an extra
    pipe = load_plain(model, place, dtype, parts, torch.device("cpu") if offload else None, folder)
    for path, strength in pairs:
        merge_lora(pipe.modules, Path(path).expanduser(), strength)
    if place.type == "cpu":
        pipe = with_threads(pipe)
    pipe = offloaded(pipe) if offload else pipe
    network = compiled(pipe.model) if compile else pipe.model
    pipe = replace(pipe, model=replace(network, max_rows=max_rows), loras=pairs)
    if preview is not None:
        from sigmafield.models.diffusers.preview import load_preview

        pipe = replace(pipe, small_decoder=load_preview(Path(preview).expanduser(), pipe.model.latent, pipe.device))
    return pipe


def check_loras(loras: Loras) -> list[tuple[str, float]]:
    """Paths and strengths. Raises FileNotFoundError for no file, ValueError for a strength that is not finite."""
    pairs = [(str(path), float(s)) for path, s in (loras.items() if isinstance(loras, Mapping) else loras)]
    for path, strength in pairs:
        needed(Path(path).expanduser())
        if not math.isfinite(strength):
            raise ValueError(f"LoRA '{path}': its strength must be a finite number; got {strength}")
    return pairs


def load_plain(
    model: str | Path,
    place: torch.device,
    dtype: str | torch.dtype | None,
    parts: str | Path | None,
    home: torch.device | None,
    embeddings: Path | None,
) -> Pipeline:
    """The pipeline of a model as its own files have it: the shipped one, a single file, a directory or a hub id."""
    path = Path(model).expanduser()
    if parts is not None and not path.is_file():
        raise ValueError(f"parts goes with a single file; model {str(model)!r} is none")
    if model == TINY:
        shipped = Path(str(files("sigmafield"))) / "data" / TINY
        return load_tiny(shipped, place, choose_dtype(dtype, torch.float32), embeddings)
    asked = None if dtype is None else choose_dtype(dtype, torch.float32)
    if path.is_file():
        check_file(path)
        from sigmafield.models.diffusers import load_single_file  # slow to import, and an extra

        return load_single_file(path, Path(parts).expanduser() if parts else None, place, asked, home, embeddings)
    if not path.is_dir() and not (isinstance(model, str) and HUB_ID.fullmatch(model)):
        raise FileNotFoundError(f"model {str(model)!r}: no such directory, and no hub id like 'org/name'{nearby(path)}")
    from sigmafield.models.diffusers import load_diffusers  # slow to import, and an extra

    return load_diffusers(path if path.is_dir() else str(model), place, asked, home, embeddings)


def load_control(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    kind: str | None = None,
) -> ControlNetwork:
    """A ControlNet or T2I-Adapter for a `Control`, from its directory in diffusers' layout.

    device, dtype: as for `load`; kind: of the hint, for a ControlNet that reads several (canny, depth, openpose, …).

    Raises ValueError for an argument or a network that is not supported, FileNotFoundError for what is missing,
    ImportError where the packages that run it are not installed.
    """
    place = choose_device(device)
    precision = choose_dtype(dtype, torch.float32 if place.type == "cpu" else torch.float16)
    from sigmafield.models.diffusers.control import read_control

    return read_control(Path(path).expanduser(), place, precision, kind)


def check_file(path: Path) -> None:
    """Raises ValueError for a file of a kind that is not opened."""
    if path.suffix in PICKLES:
        raise ValueError(
            f"model '{path}': a pickle can run any code and is not opened; convert it to .safetensors, or pass a "
            "directory in diffusers' layout"
        )
    if path.suffix != ".safetensors":
        raise ValueError(
            f"model '{path}': a single file must be .safetensors; or pass a directory in diffusers' layout"
        )


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
