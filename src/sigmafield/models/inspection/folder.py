"""What a folder of models holds: files of weights, directories in diffusers' layout, pickles."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sigmafield.models.directory import INDEX, read_json
from sigmafield.models.inspection.inspect import inspect, is_weights
from sigmafield.models.inspection.report import Inspected, Kind
from sigmafield.models.weights.broken import PICKLES

FOLDERS: dict[str, tuple[Kind, ...]] = {
    "checkpoints": ("checkpoint", "network"), "Stable-diffusion": ("checkpoint", "network"),
    "diffusion_models": ("network", "checkpoint"), "unet": ("network", "checkpoint"),
    "loras": ("LoRA",), "Lora": ("LoRA",), "lora": ("LoRA",), "LyCORIS": ("LoRA",),
    "vae": ("VAE",), "VAE": ("VAE",), "vae_approx": ("preview decoder",), "VAE-approx": ("preview decoder",),
    "controlnet": ("control net",), "ControlNet": ("control net",), "t2i_adapter": ("control net",),
    "text_encoders": ("text encoder",), "clip": ("text encoder",), "text_encoder": ("text encoder",),
    "embeddings": ("textual inversion",), "upscale_models": ("upscaler",), "ESRGAN": ("upscaler",),
    "ipadapter": ("IP-Adapter",),
}  # fmt: skip
"""Kinds of files that folders of ComfyUI and A1111 are for."""


@dataclass(frozen=True)
class Entry:
    """A model in a folder.

    Args:
        path: The file or directory, from the folder.
        size: Its bytes.
        found: What a file is; None for what is not a file of weights that can be read.
        note: What a directory is, why a file cannot be read or used, or that it is in a folder for other files.
    """

    path: str
    size: int
    found: Inspected | None
    note: str


def listed(folder: str | Path) -> Iterator[Entry]:
    """Lists the models in a folder and those below it, sorted by path; links to folders are not followed.

    Args:
        folder: A folder in any layout: ComfyUI's and A1111's folders are known by their names.

    Raises:
        OSError: If the folder cannot be read.
    """
    top = Path(folder).expanduser()
    if not top.is_dir():
        raise NotADirectoryError(f"{top}: no such directory of models")
    for where, inner, names in os.walk(top, onerror=_raise):
        here = Path(where)
        inner.sort()
        if here != top and (here / INDEX).is_file():
            inner.clear()
            yield Entry(here.relative_to(top).as_posix(), _size(here), None, _directory(here / INDEX, "model"))
        elif here != top and (here / "config.json").is_file() and any(map(is_weights, map(Path, names))):
            inner.clear()
            yield Entry(here.relative_to(top).as_posix(), _size(here), None, _directory(here / "config.json", "part"))
        else:
            yield from (_entry(top, here / name) for name in sorted(names) if _wanted(here / name))


def _raise(error: OSError) -> None:
    raise error


def _wanted(path: Path) -> bool:
    return path.is_file() and (is_weights(path) or path.suffix.lower() in PICKLES)


def _entry(top: Path, path: Path) -> Entry:
    name, size = path.relative_to(top).as_posix(), path.stat().st_size
    if not is_weights(path):
        return Entry(name, size, None, "a pickle, which can run any code and is not opened; convert it to .safetensors")
    try:
        found = inspect(path)
    except (ValueError, OSError, ImportError) as error:
        return Entry(name, size, None, " ".join(str(error).split()).removeprefix(str(path)).lstrip(": "))
    wanted = next((FOLDERS[part] for part in reversed(path.relative_to(top).parts[:-1]) if part in FOLDERS), None)
    if wanted is None and top.name in FOLDERS:
        wanted = FOLDERS[top.name]
    notes = [found.problem] if found.problem else []
    if wanted and found.kind not in wanted:
        notes.insert(0, f"in a folder for files of another kind: {' or '.join(wanted)}")
    return Entry(name, size, found, "; ".join(notes))


def _directory(path: Path, what: str) -> str:
    """What a directory in diffusers' layout holds."""
    try:
        kind = read_json(path).get("_class_name")
    except (ValueError, OSError) as error:
        return " ".join(str(error).split()).removeprefix(f"{path.parent}/")
    return f"{kind or 'a network'}, a {what} in diffusers' layout"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
