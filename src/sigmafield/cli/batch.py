"""`sigmafield sample --prompts`: a job of many lines, which the same command goes on with wherever it was stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from sigmafield.cli.errors import USER_ERRORS, complain
from sigmafield.cli.manifest import Entry, Manifest
from sigmafield.cli.prompts import Line
from sigmafield.cli.runner import ENDING, Watch, Watching, drawn, enough_memory
from sigmafield.cli.shared import Shared
from sigmafield.cli.signals import Interrupted
from sigmafield.cli.single import check_previews, facts_of, say_savings, stem_of, words_of
from sigmafield.cli.terminal import Display
from sigmafield.cli.understood import say_notes
from sigmafield.comfyui.workflow.carried import workflow_texts
from sigmafield.core.protocols import State
from sigmafield.recipes.execute import open_job
from sigmafield.recipes.image_io import digest
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.output import files_of
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.checkpoint import load_state
from sigmafield.runs.files import OwnFile, check_writable, free_names, write_at


@dataclass
class Report:
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
        complain(f"line {line.number}: {error}")
        self.failed.append({"line": line.number, "prompt": recipe.prompt if recipe else line.text, "error": str(error)})
        plain = None if recipe is None else recipe.to_plain()
        manifest.add(Entry(line.number, "failed", plain, error=str(error)))

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


def draw_all(
    lines: Sequence[Line], folder: Path, prompts: Path, machine: MachineOptions, how: Watching, *, as_json: bool
) -> None:
    """Draw each line once: those that were written before are skipped, a bad one is named and the others go on.

    The status is 0 if all lines are written, 2 if some failed, and 128 and the signal's number after a signal.

    Args:
        lines: What is drawn.
        folder: Where files and manifest are written; it is made if it does not exist.
        prompts: The file of prompts, for the manifest's name.
        machine: What the models run on.
        how: What is written on the way.
        as_json: Print JSON for machines, and no progress.

    Raises:
        OSError: The folder cannot be written to, or another process works on this batch.
    """
    report, shared, status = Report(), Shared(machine), 0
    with Manifest(folder, prompts) as manifest:
        todo = planned(lines, manifest, shared, report)
        display = Display(as_json, [recipe.steps for _, recipe in todo])
        for part, (line, recipe) in enumerate(todo):
            try:
                facts, words = draw_line(line, recipe, part, manifest, shared, how, display, as_json)
            except Interrupted as end:
                status = end.status
                break
            except USER_ERRORS as error:
                report.fail(line, recipe, error, manifest)
                continue
            report.images.append(facts)
            if not as_json:
                print(words, flush=True)
        print(report.json() if as_json else report.text(len(lines), manifest.path))
    if status or report.failed:
        sys.exit(status or 2)


def planned(lines: Sequence[Line], manifest: Manifest, shared: Shared, report: Report) -> list[tuple[Line, Recipe]]:
    """The lines that are to be drawn, with their recipes and the digests of their files; others are reported."""
    todo = []
    for line in lines:
        try:
            if line.recipe is None:
                raise ValueError(line.error)
            sealed, _ = shared.inputs(line.recipe)
            if line.drawn:
                sealed = replace(sealed, seed=manifest.seed(line.number, sealed.to_plain()))
        except USER_ERRORS as error:
            report.fail(line, line.recipe, error, manifest)
            continue
        if files := manifest.written(line.number, sealed.to_plain()):
            report.skipped.append({"line": line.number, "files": [str(file) for file in files]})
            checkpoint_of(line, manifest).remove()  # a kill may have come between the files and this
        else:
            todo.append((line, sealed))
    return todo


@enough_memory()
def draw_line(
    line: Line,
    recipe: Recipe,
    part: int,
    manifest: Manifest,
    shared: Shared,
    how: Watching,
    display: Display,
    as_json: bool,
) -> tuple[dict[str, Any], str]:
    """Draw a line, from its checkpoint if it has one, and write its files: (facts, the same for people).

    Raises:
        Interrupted: A signal came; the state is saved where the next command finds it.
    """
    began = perf_counter()
    check_writable(manifest.folder)
    sealed, inputs = shared.inputs(recipe)
    pipe = shared.pipe(sealed)
    check_previews(pipe, how)
    job = open_job(sealed, pipe, inputs, shared.controls(sealed, inputs, pipe))
    say_notes(job, quiet=part > 0 or as_json)
    path = manifest.folder / f"{stem_of(sealed)}.png"
    checkpoint = checkpoint_of(line, manifest)
    watch, texts = (
        Watch(job, path, display, shared.machine, how, checkpoint, part, "the same command"),
        workflow_texts(job),
    )
    result, files = drawn(
        watch,
        lambda end: write_line(
            line.number, job.recipe, path, files_of(end.images, ".png", job.recipe, texts), manifest
        ),
        state_of(checkpoint.path, job.recipe),
    )
    say_savings(result)
    facts = facts_of(job.recipe, result, perf_counter() - began, files)
    return {**facts, "line": line.number}, words_of(job.recipe, result, facts)


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
