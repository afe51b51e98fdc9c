"""What the lines of a batch leave: their files, their checkpoints, and a report of what has become of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sigmafield.cli.errors import complain, text_of
from sigmafield.cli.manifest import Entry, Manifest
from sigmafield.cli.prompts import Line
from sigmafield.cli.runner import ENDING
from sigmafield.core.protocols import State
from sigmafield.recipes.image_io import digest
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.checkpoint import load_state
from sigmafield.runs.files import OwnFile, free_names, write_at


@dataclass
class Outcomes:
    """What has become of the lines, as plain values.

    Args:
        images: Those written by this command.
        skipped: Those written before.
        failed: Those that could not be drawn.
    """

    images: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)

    def fail(self, line: Line, recipe: Recipe | None, error: Exception, manifest: Manifest) -> None:
        """Note that a line cannot be drawn, and say why."""
        said = text_of(error)
        complain(f"line {line.number}: {said}")
        self.failed.append({"line": line.number, "prompt": recipe.prompt if recipe else line.text, "error": said})
        plain = None if recipe is None else recipe.to_plain()
        manifest.add(Entry(line.number, "failed", plain, error=said))

    def json(self) -> str:
        """One line for machines."""
        whole = {"images": self.images, "skipped": self.skipped, "failed": self.failed}
        return json.dumps(whole, ensure_ascii=False)

    def text(self, lines: int, manifest: Path) -> str:
        """One line for people: what has become of all lines."""
        counts = {"written": len(self.images), "skipped": len(self.skipped), "failed": len(self.failed)}
        left = lines - sum(counts.values())
        said = [f"{n} {what}" for what, n in counts.items() if n or what == "written"] + [f"{left} left"] * bool(left)
        again = "; to draw them again, remove it" if counts["skipped"] else ""
        return f"{', '.join(said)}; lines are noted in {manifest}{again}"


def checkpoint_of(line: Line, manifest: Manifest) -> OwnFile:
    """The file for the state of a line, which no other process writes."""
    return OwnFile(manifest.folder / f"{manifest.owner}.line-{line.number}{ENDING}", mine=True)


def state_of(checkpoint: Path, recipe: Recipe) -> State | None:
    """The state that a line goes on from; None without a checkpoint of this recipe."""
    if not checkpoint.is_file():
        return None
    try:
        state, meta = load_state(checkpoint)
    except ValueError:
        return None
    return state if meta.get("recipe") == recipe.to_json() else None


def write_line(line: int, recipe: Recipe, path: Path, parts: dict[str, bytes], manifest: Manifest) -> list[Path]:
    """Write the files of a line under names that are free, so that a kill at any moment leaves it drawn once or not."""
    plain, digests = recipe.to_plain(), [digest(data) for data in parts.values()]
    for files in free_names(path, tuple(parts)):
        names = [file.name for file in files]
        manifest.add(Entry(line, "writing", plain, names, digests))
        if write_at(dict(zip(files, parts.values())), manifest.owner):
            manifest.add(Entry(line, "written", plain, names, digests))
            return files
    raise AssertionError("free names never end")
