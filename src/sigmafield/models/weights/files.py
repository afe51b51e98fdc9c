"""The weights of a model or of a part of one, in one file or in several, by their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from sigmafield.models.weights.broken import PICKLES
from sigmafield.models.weights.gguf_file import GgufFile, is_gguf, open_gguf
from sigmafield.models.weights.kinds import FORMATS, Entry
from sigmafield.models.weights.packed import Value
from sigmafield.models.weights.safetensors_file import SafetensorsFile, open_safetensors

ENDINGS = (".safetensors", ".sft", ".gguf")
"""Endings of files with weights that are opened, in lower case."""

READ = f"{', '.join(dict.fromkeys(FORMATS.values()))} with one scale per tensor or row, and GGUF"


@dataclass(frozen=True)
class Weights:
    """Weights that have not been read yet.

    Args:
        files: Their files.
        stored: The name of each weight in its file, and the file, by the name that it has here.
    """

    files: Sequence[SafetensorsFile | GgufFile]
    stored: Mapping[str, tuple[str, int]]

    @cached_property
    def header(self) -> dict[str, Entry]:
        """Dtypes and shapes."""
        return {name: self.files[file].header[stored] for name, (stored, file) in self.stored.items()}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each weight; that of a quantised one is the shape of its numbers."""
        return {name: entry.shape for name, entry in self.header.items()}

    @property
    def packed(self) -> bool:
        """Whether any weights are quantised."""
        return any(file.quantisation.quantised for file in self.files)

    @property
    def metadata(self) -> dict[str, str]:
        """The entries of the files' headers."""
        return {name: text for file in self.files for name, text in file.metadata.items()}

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Value]]:
        """Reads weights one after another, quantised ones as they are."""
        wanted: list[dict[str, str]] = [{} for _ in self.files]
        for name in names:
            stored, file = self.stored[name]
            wanted[file][stored] = name
        for file, known in zip(self.files, wanted):
            for stored, value in file.read(known):
                yield known[stored], value

    def renamed(self, names: Mapping[str, str]) -> Weights:
        """The weights with other names for some; names: from here → new."""
        return replace(self, stored={names.get(name, name): where for name, where in self.stored.items()})


def open_weights(paths: Sequence[Path]) -> Weights:
    """Reads the headers of safetensors and GGUF files.

    Raises:
        ImportError: If a GGUF file is opened without the package gguf.
        OSError: If a file cannot be read.
        ValueError: If a file is broken, or quantised in a way that is not supported.
    """
    files = [open_gguf(path) if is_gguf(path) else open_safetensors(path) for path in paths]
    for file in files:
        if (what := file.quantisation.unsupported) is not None:
            raise ValueError(f"{file.path} is quantised, by {what}, which is not supported; supported: {READ}")
    return Weights(files, {name: (name, i) for i, file in enumerate(files) for name in file.header})


def check_ending(path: Path) -> None:
    """Raises ValueError for a file that is not one of weights by its ending."""
    ending = path.suffix.lower()
    if ending in PICKLES:
        raise ValueError(
            f"model '{path}': a pickle can run any code and is not opened; convert it to .safetensors, or pass a "
            "directory in diffusers' layout"
        )
    if ending not in ENDINGS:
        raise ValueError(
            f"model '{path}': a single file must be .safetensors, .sft or .gguf; "
            "or pass a directory in diffusers' layout"
        )
