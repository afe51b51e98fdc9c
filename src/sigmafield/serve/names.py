"""Models that clients may name: those that the server was started with, and those below its folder of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sigmafield.core.registry import near_miss, shown
from sigmafield.serve.roots import inside

WEIGHTS = (".safetensors", ".sft", ".gguf")
"""Endings of files of weights that clients may name: formats that hold no code."""


@dataclass(frozen=True)
class ModelNames:
    """What clients call models, and where these are.

    Args:
        given: Models that the server was started with, by their public names; the first is the default.
        root: Folder of further models; None has no others.
    """

    given: Mapping[str, str]
    root: Path | None = None

    @classmethod
    def of(cls, models: Sequence[str], root: Path | None) -> ModelNames:
        """The names of models that are given as paths, hub ids or "tiny"; a path is called by its last part.

        Raises:
            ValueError: Two have the same name.
            NotADirectoryError: The folder of models does not exist.
        """
        if root is not None and not root.is_dir():
            raise NotADirectoryError(f"no folder of models {root}")
        given: dict[str, str] = {}
        for model in models:
            name = Path(model).name if Path(model).expanduser().exists() else model
            if given.setdefault(name, model) != model:
                raise ValueError(f"two models are called {name}: {given[name]} and {model}; rename one of them")
        return cls(given, None if root is None else root.resolve())

    @property
    def default(self) -> str:
        """The name of the model of recipes that name none."""
        return next(iter(self.given))

    def model(self, name: str) -> str:
        """What `load` calls a model. ValueError with the nearest names if clients may not use it."""
        if name in self.given:
            return self.given[name]
        if name in self.given.values():  # as a recipe has it that was made on this machine
            return name
        if self.root is None:
            raise ValueError(f"unknown model {shown(name)} on this server{near_miss(name, self.given)}")
        return self.file(name, "model")

    def file(self, name: str, what: str) -> str:
        """A file of weights or a folder below the root.

        Args:
            name: Its name, relative to the root.
            what: What it is for, for errors: "model", "a LoRA's path".

        Raises:
            ValueError: It is not below the root, or not weights in a format that holds no code.
        """
        if self.root is None:
            raise ValueError(f"{what}: this server was started without a folder of models that clients may use")
        path = inside(self.root, self._relative(name), what)
        if path.is_file() and path.suffix.lower() not in WEIGHTS:
            raise ValueError(f"{what}: {shown(name)} must end in one of {', '.join(WEIGHTS)}, or be a folder")
        return str(path)

    def public(self, path: str) -> str:
        """What clients call a model's file: the way back from `model` and `file`."""
        return next((name for name, given in self.given.items() if given == path), self._relative(path))

    def _relative(self, path: str) -> str:
        """A path below the root, as one from it; others as they are."""
        return path if self.root is None else path.removeprefix(f"{self.root.as_posix()}/")
