"""Loading a model: the shipped one, or one of the supported families, in diffusers' layout or as a single file."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import torch

from sigmafield.maths import near_miss
from sigmafield.models.directory import TINY, nearby
from sigmafield.models.pipeline import Pipeline
from sigmafield.models.running import check_compile, check_offload, compiled, offloaded
from sigmafield.models.tiny import load_tiny

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
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

    Raises ValueError for an argument or a model that is not supported, FileNotFoundError for what is missing,
    ImportError where a model needs packages that are not installed, ConnectionError where a hub id cannot be had.
    """
    place = choose_device(device)
    if offload:
        check_offload(place)
    if compile:
        check_compile(place)
    pipe = load_plain(model, place, dtype, parts, torch.device("cpu") if offload else None)
    pipe = offloaded(pipe) if offload else pipe
    return compiled(pipe) if compile else pipe


def load_plain(
    model: str | Path,
    place: torch.device,
    dtype: str | torch.dtype | None,
    parts: str | Path | None,
    home: torch.device | None,
) -> Pipeline:
    """The pipeline of a model as its own files have it: the shipped one, a single file, a directory or a hub id."""
    path = Path(model).expanduser()
    if parts is not None and not path.is_file():
        raise ValueError(f"parts goes with a single file; model {str(model)!r} is none")
    if model == TINY:
        return load_tiny(Path(str(files("sigmafield"))) / "data" / TINY, place, choose_dtype(dtype, torch.float32))
    asked = None if dtype is None else choose_dtype(dtype, torch.float32)
    if path.is_file():
        check_file(path)
        from sigmafield.models.diffusers import load_single_file  # slow to import, and an extra

        return load_single_file(path, Path(parts).expanduser() if parts else None, place, asked, home)
    if not path.is_dir() and not (isinstance(model, str) and HUB_ID.fullmatch(model)):
        raise FileNotFoundError(f"model {str(model)!r}: no such directory, and no hub id like 'org/name'{nearby(path)}")
    from sigmafield.models.diffusers import load_diffusers  # slow to import, and an extra

    return load_diffusers(path if path.is_dir() else str(model), place, asked, home)


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
