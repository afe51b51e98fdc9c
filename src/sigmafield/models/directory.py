"""A model directory in diffusers' layout: which components it names, and clear errors for what is missing.

model_index.json names a (library, class) for each component; each lies in a sub-folder with its config and weights.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sigmafield.models.weights.broken import not_safetensors

INDEX = "model_index.json"
TINY, TINY_FLOW = SHIPPED = ("tiny", "tiny-flow")
"""Names of the models that are shipped; the first is the default."""

WEIGHTS = ("diffusion_pytorch_model", "model")
NETWORKS = ("unet", "transformer", "prior", "decoder")


@dataclass(frozen=True)
class Directory:
    """A directory with its model_index.json.

    Args:
        path: The directory.
        index: Contents of model_index.json.
    """

    path: Path
    index: dict[str, Any]

    def class_of(self, component: str) -> str | None:
        """Class name of a component; None where the index does not name one."""
        entry = self.index.get(component)
        return entry[1] if isinstance(entry, list) and len(entry) == 2 else None

    def folder(self, component: str, *supported: str) -> Path:
        """Sub-folder of a component.

        Raises:
            ValueError: If the component is missing or not of a supported class.
            FileNotFoundError: If the folder is missing.
        """
        kind = self.class_of(component)
        if kind not in supported:
            raise ValueError(f"{self.path}: {component} is {kind or 'missing'}; supported: {', '.join(supported)}")
        folder = self.path / component
        if not folder.is_dir():
            raise FileNotFoundError(f"{self.path}: sub-folder {component} is missing; {listing(self.path)}")
        return folder

    def config(self, component: str, *supported: str) -> dict[str, Any]:
        """The config.json of a component, which must be of one of the supported classes."""
        return read_json(self.folder(component, *supported) / "config.json")

    def network(self, *supported: str) -> str:
        """Class of the network; raises ValueError if it is not a supported one."""
        part = next((name for name in NETWORKS if self.class_of(name)), "unet")
        self.folder(part, *supported)
        return str(self.class_of(part))

    def scheduler(self) -> dict[str, Any]:
        """The scheduler's config; raises FileNotFoundError where it is missing."""
        return read_json(self.path / "scheduler" / "scheduler_config.json")


def open_directory(path: Path) -> Directory:
    """Opens a model directory; raises FileNotFoundError with the contents and the likely path where it is not one."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such directory")
    if not (path / INDEX).is_file():
        near = [p for p in [path.parent, *sorted(path.iterdir())] if (p / INDEX).is_file()]
        hint = f"; did you mean {' or '.join(map(str, near))}?" if near else f"; {listing(path)}"
        raise FileNotFoundError(f"{path}: no {INDEX}, so this is not a model directory in diffusers' layout{hint}")
    return Directory(path, read_json(path / INDEX))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a dictionary from a JSON file; raises FileNotFoundError or ValueError naming the file."""
    try:
        value = json.loads(needed(path).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is JSON, but not an object")
    return value


def weights(folder: Path) -> tuple[list[Path], str | None]:
    """Finds the weight files of a component: safetensors, or one GGUF file of any name.

    Returns:
        The files and their variant: None, or 'fp16' where there are only half-precision ones.

    Raises:
        FileNotFoundError: If a file or shard is missing.
        ValueError: If a file is broken, there are only pickles, or several GGUF files.
    """
    for variant in (None, "fp16"):
        part = f".{variant}" if variant else ""
        for stem in WEIGHTS:
            whole, shards = folder / f"{stem}{part}.safetensors", folder / f"{stem}.safetensors.index{part}.json"
            if whole.is_file():
                return [opened(whole)], variant
            if shards.is_file():
                names = sorted(set(read_json(shards)["weight_map"].values()))
                return [opened(needed(folder / name)) for name in names], variant
    blocks = sorted(folder.glob("*.gguf"))
    if len(blocks) > 1:
        raise ValueError(f"{folder} has several .gguf files, {', '.join(p.name for p in blocks)}: leave one in it")
    if blocks:
        return blocks, None
    pickles = [p.name for p in sorted(folder.glob("*.bin"))]
    if pickles:
        raise ValueError(f"{folder}: {pickles[0]} is a pickle and is not opened; convert it to .safetensors")
    expected = " or ".join(f"{stem}.safetensors" for stem in WEIGHTS) + ", or a .gguf file"
    raise FileNotFoundError(f"{folder}: weights are missing, expected {expected}; {listing(folder)}")


def opened(path: Path) -> Path:
    """Returns the path of a safetensors file; raises ValueError for another file."""
    try:
        with safe_open(path, "pt"):
            return path
    except SafetensorError as error:
        raise not_safetensors(path, error) from None


def needed(path: Path) -> Path:
    """Returns the path of a file; raises FileNotFoundError naming the file or the folder that is missing."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent.parent}: sub-folder {path.parent.name} is missing")
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent}: {path.name} is missing; {listing(path.parent)}")
    return path


def listing(folder: Path) -> str:
    """Lists a folder for an error message."""
    names = [p.name + "/" * p.is_dir() for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
    if not names:
        return "it is empty"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"it has {', '.join(names[:8])}{more}"


def nearby(path: Path) -> str:
    """Makes the end of an error about a path that does not exist: similar names in the same folder."""
    if not path.parent.is_dir():
        return f"; {path.parent} does not exist either"
    names = [p.name for p in path.parent.iterdir() if p.is_dir()]
    close = difflib.get_close_matches(path.name, [*names, *SHIPPED], n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
