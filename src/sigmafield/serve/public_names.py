"""The engine's records as clients may see them: without the server's folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigmafield.recipes.recipe import Recipe
from sigmafield.serve.jobs import JobRecord
from sigmafield.serve.names import ModelNames
from sigmafield.serve.uploads import DIGEST, PREFIX, Uploads

IMAGES = ("image", "mask", "denoise_map")
"""Entries of a recipe that name an image."""

FOLDERS = ("parts", "embeddings")
"""Entries of a recipe that name a folder of models."""

NESTED = {"loras": ("path",), "controls": ("net", "image"), "references": ("image",),
          "ip_adapters": ("net", "encoder", "image")}  # fmt: skip
"""Entries of a recipe that hold objects which name files, with the names of those."""


@dataclass(frozen=True)
class PublicNames:
    """Gives the server's files the names that clients have for them.

    Args:
        names: The models that clients may use.
        uploads: The images that they have uploaded.
        inputs: Folder of images that they may name; None has none.
    """

    names: ModelNames
    uploads: Uploads
    inputs: Path | None = None

    def job(self, record: JobRecord) -> dict[str, Any]:
        """A job as clients see it: files by the names that they have for clients, outputs by their addresses."""
        base = f"/v1/jobs/{record.id}"
        keys = ("id", "kind", "status", "priority", "created", "started", "ended", "step", "steps", "progress", "label")
        return {
            **{key: getattr(record, key) for key in keys},
            record.kind: (self.recipe if record.kind == "recipe" else public_workflow)(record.request),
            "outputs": [{**vars(output), "url": f"{base}/outputs/{n}"} for n, output in enumerate(record.outputs)],
            "error": None if record.error is None else self.text(record.error),
            "cloned_from": record.cloned_from,
            "key": record.key,
        }

    def recipe(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A recipe of the engine, as it can be posted again."""
        found = dict(request)
        for name in (*IMAGES, "model", *FOLDERS):
            if isinstance(value := found.get(name), str):
                found[name] = self.file(value)
        for name, keys in NESTED.items():
            if items := found.get(name):
                found[name] = [{**item, **{key: self.file(item[key]) for key in keys if key in item}} for item in items]
        return found

    def shown(self, recipe: Recipe) -> Recipe:
        """A recipe of the engine as it is written into images."""
        return Recipe.from_plain(self.recipe(recipe.to_plain()))

    def text(self, text: str) -> str:
        """A message without the server's folders."""
        for folder in self._folders():
            text = text.replace(f"{folder}/", "")
        return text

    def file(self, path: str) -> str:
        """A file of the server by its name for clients; the path itself if it has none."""
        if (reference := self.uploads.reference(path)) is not None:
            return reference
        named = self.names.public(path)
        return named if named != path or self.inputs is None else path.removeprefix(f"{self.inputs.resolve()}/")

    def _folders(self) -> Iterator[str]:
        """The server's folders, and those of models that it was started with, the innermost first."""
        given = [str(Path(path).parent) for name, path in self.names.given.items() if name != path]
        for folder in sorted({*given, *map(str, filter(None, (self.inputs, self.names.root)))}, reverse=True):
            yield str(Path(folder).resolve())
        yield from (str(path) for path in sorted(self.uploads.folder.glob("*"), reverse=True))
        yield from (str(self.uploads.folder), str(self.uploads.folder.parent))


def public_workflow(request: Mapping[str, Any]) -> dict[str, Any]:
    """A workflow of the engine, as it can be posted again."""

    def shown_input(value: Any) -> Any:
        return PREFIX + value if isinstance(value, str) and DIGEST.fullmatch(value) else value

    return {
        name: {**node, "inputs": {key: shown_input(value) for key, value in node.get("inputs", {}).items()}}
        for name, node in request["prompt"].items()
    }
