"""Reads textual inversions: vectors that were learnt for a text encoder, by the names of their files.

Gal et al., arXiv:2208.01618.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sigmafield.core.registry import near_miss
from sigmafield.models.directory import nearby, opened
from sigmafield.models.text.bundled import Bundled, equal
from sigmafield.models.text.prompt import UnknownEmbedding, no_vectors
from sigmafield.models.weights.broken import PICKLES

ENDING = ".safetensors"


@dataclass(frozen=True)
class Inversions:
    """The textual inversions that prompts may name.

    Args:
        folder: Directory of the files; None: every name is unknown.
        skip_unknown: Whether an unknown name is left out of the prompt with a warning, as in ComfyUI, rather than
            refused.

    Raises:
        FileNotFoundError: If the directory does not exist.
    """

    folder: Path | None = None
    skip_unknown: bool = False

    def __post_init__(self) -> None:
        if self.folder is not None and not self.folder.is_dir():
            raise FileNotFoundError(f"embeddings '{self.folder}': no such directory{nearby(self.folder)}")

    def vectors_of(self, part: str, width: int) -> Callable[[str, Bundled], Tensor]:
        """Makes `Vocabulary.vectors`: the function from a textual inversion's name to its vectors [n, width].

        Textual inversions that LoRAs hold need no folder; one that the folder has too must be the same there.

        Args:
            part: The encoder's name in files with vectors for several encoders: clip_l or clip_g.
            width: Width of the encoder's vectors.
        """
        return partial(self._vectors, part, width)

    def _vectors(self, part: str, width: int, name: str, bundled: Bundled) -> Tensor:
        if name.removesuffix(ENDING) in bundled:
            return self._bundled(part, width, name.removesuffix(ENDING), bundled)
        try:
            if self.folder is None:
                return no_vectors(name, bundled)
            return read_vectors(find(self.folder, name), part, width)
        except UnknownEmbedding as error:
            if not self.skip_unknown:
                raise
            warnings.warn(f"{error}; it is left out of the prompt", stacklevel=1)
            return torch.empty(0, width)

    def _bundled(self, part: str, width: int, name: str, bundled: Bundled) -> Tensor:
        """Vectors that a LoRA holds; raises ValueError if the folder has others by that name."""
        vectors = bundled[name].of(name, part)
        path = None if self.folder is None else by_name(self.folder).get(name)
        if path is not None and not equal(read_vectors(path, part, width), vectors):
            raise ValueError(
                f"embedding:{name}: {bundled[name].file} and {path} have different vectors; move or rename the latter"
            )
        return vectors


def find(folder: Path, name: str) -> Path:
    """Finds the file of a name, with or without its suffix, in a folder and those below it.

    Raises:
        UnknownEmbedding: If the file does not exist.
        ValueError: If the file is a pickle.
    """
    known, stem = by_name(folder), name.removesuffix(ENDING)
    if stem in known:
        return known[stem]
    for path in files_in(folder):
        if path.suffix in PICKLES and name in (path.stem, path.name):
            raise ValueError(
                f"embedding:{name}: {path.name} is a pickle, which can run any code, and is not opened; "
                "convert it to .safetensors"
            )
    if not known:
        raise UnknownEmbedding(f"embedding:{name}: there is no .safetensors file in {folder}")
    raise UnknownEmbedding(f"unknown embedding {name!r} in {folder}{near_miss(stem, known)}")


def by_name(folder: Path) -> dict[str, Path]:
    """The files in a folder and those below it, by their names without suffix, with and without the folders'."""
    known: dict[str, Path] = {}
    for path in files_in(folder):
        if path.suffix == ENDING:
            known.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
            known.setdefault(path.stem, path)
    return known


def files_in(folder: Path) -> list[Path]:
    """All files in a folder and those below it."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def read_vectors(path: Path, part: str, width: int) -> Tensor:
    """Reads vectors [n, width] from a file: its tensor `part` or `emb_params`, or its only one.

    Raises:
        ValueError: If the file has other tensors, or vectors of another width.
    """
    tensors = load_file(opened(path))
    key = next((key for key in (part, "emb_params") if key in tensors), None)
    if key is None and len(tensors) == 1 and not tensors.keys() & {"clip_l", "clip_g"}:
        [key] = tensors
    if key is None:
        names = ", ".join(sorted(tensors))
        raise ValueError(f"{path} has {names}; expected {part} or emb_params, or a single tensor of any name")
    vectors = tensors[key]
    vectors = vectors[None] if vectors.ndim == 1 else vectors
    if vectors.ndim != 2 or vectors.shape[1] != width:
        shape = "×".join(map(str, vectors.shape))
        raise ValueError(f"{path}: {key} is {shape}, but this text encoder's vectors have width {width}")
    return vectors
