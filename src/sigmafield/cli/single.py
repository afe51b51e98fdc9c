"""One image, or one batch of them: checked before the model is loaded, drawn, written, reported."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from sigmafield.cli.errors import complain
from sigmafield.cli.runner import Watch, Watching, drawn, enough_memory
from sigmafield.cli.terminal import Display, rows_text
from sigmafield.cli.understood import say_notes
from sigmafield.comfyui.workflow.carried import workflow_texts
from sigmafield.core.protocols import State
from sigmafield.lab.tiles import write_tiles
from sigmafield.models.bundle import Pipeline
from sigmafield.recipes.build import Job
from sigmafield.recipes.execute import open_job, open_pipe
from sigmafield.recipes.inputs import read_inputs
from sigmafield.recipes.options import AUTO, MachineOptions
from sigmafield.recipes.output import check_format, files_of
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.files import (
    OwnFile,
    check_regular,
    check_writable,
    free_names,
    make_folder,
    write_new,
    write_whole,
)

STEM_BYTES = 120
"""Bytes of a prompt that a file's name begins with, at most."""


@dataclass(frozen=True)
class Target:
    """The file that an image is written to, checked before anything else is done.

    Args:
        path: The file; where it exists, NAME_2 is written, then NAME_3, ….
        recipe: What is drawn, whose input files are not to be replaced.
        overwrite: Replace the file, even if it is an input.

    Raises:
        ValueError: The ending is not that of a format, or the file is an input of the recipe.
        OSError: The folder does not exist or cannot be written to, or the path is a folder, a device or a pipe.
    """

    path: Path
    recipe: Recipe
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"no folder {self.path.parent} to write {self.path.name} in")
        check_regular(self.path)
        check_format(self.path, recipe=self.recipe)
        if not self.overwrite:
            for name in input_files(self.recipe):
                if os.path.exists(name) and self.path.exists() and os.path.samefile(name, self.path):
                    raise ValueError(f"{self.path} is an input of this image: give another -o, or --overwrite")
        check_writable(self.path.parent)

    def write(self, parts: dict[str, bytes]) -> list[Path]:
        """Write the files of an image, by what follows the name; returns their paths."""
        if not self.overwrite:
            return write_new(self.path, parts)
        names = [self.path.with_name(f"{self.path.stem}{part}{self.path.suffix}") for part in parts]
        for name, data in zip(names, parts.values()):
            write_whole(name, data)
        return names


def stem_of(recipe: Recipe) -> str:
    """What a file is named after: prompt and seed; at most about 140 bytes, where file systems allow 255."""
    words = re.sub(r"\W+", "-", recipe.prompt.lower())[:60].strip("-")
    return f"{words.encode()[:STEM_BYTES].decode(errors='ignore') or 'image'}-{recipe.seed}"


def target_of(recipe: Recipe, output: Path | None, folder: Path | None, overwrite: bool) -> Target:
    """Where an image is written: a file, or a folder under a name of its own, or out.png.

    Raises:
        ValueError: A file and a folder are given, or a folder and overwrite.
        OSError: It cannot be written there.
    """
    if folder is None:
        return Target(Path("out.png") if output is None else output, recipe, overwrite)
    if output is not None:
        raise ValueError(f"give -o or --out-dir, not both; got {output} and {folder}")
    if overwrite:
        raise ValueError("--overwrite goes with -o: nothing in --out-dir is overwritten")
    make_folder(folder)
    return Target(folder / f"{stem_of(recipe)}.png", recipe)


def input_files(recipe: Recipe) -> Iterator[str]:
    """The images that a recipe reads."""
    shown = [entry.image for entry in (*recipe.controls, *recipe.ip_adapters, *recipe.references)]
    for path in (recipe.image, recipe.mask, recipe.denoise_map, *shown):
        if path is not None and path != AUTO:
            yield str(path)


def check_tiles(tiles: Path) -> None:
    """Raise ValueError or OSError where a PNG or SVG of the tiles cannot be written."""
    if not tiles.parent.is_dir():
        raise FileNotFoundError(f"no folder {tiles.parent} to write {tiles.name} in")
    if tiles.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"show-tiles must be a .png or .svg file; got {tiles}")
    check_regular(tiles)


@enough_memory()
def draw(
    target: Target,
    machine: MachineOptions,
    how: Watching,
    *,
    as_json: bool,
    tiles: Path | None = None,
    state: State | None = None,
    checkpoint: OwnFile | None = None,
) -> None:
    """Draw an image, write its files and say what they are.

    Args:
        target: What is drawn, and where it is written.
        machine: What the model runs on.
        how: What is written on the way.
        as_json: Print JSON for machines, and no progress.
        tiles: A PNG or SVG of the tiles, written before the run.
        state: Where to go on from; None is the start.
        checkpoint: The file that the state came from.
    """
    if tiles:
        check_tiles(tiles)
    sealed, inputs = read_inputs(target.recipe)  # before the model is loaded, which takes longer
    pipe = open_pipe(sealed, **machine.load_arguments())
    check_previews(pipe, how)
    job = open_job(sealed, pipe, inputs)
    check_video(job, target.path)
    say_notes(job, quiet=as_json)
    if tiles:
        own = tiles if target.overwrite else next(free_names(tiles))[0]
        write_tiles(job, inputs, own)
        if own != tiles:
            complain(f"the tiles are in {own}, since {tiles} exists", kind="note")
    watch = Watch(job, target.path, Display(as_json, [sealed.steps]), machine, how, checkpoint)
    began = perf_counter()
    ending, texts = target.path.suffix, workflow_texts(job)
    result, files = drawn(watch, lambda end: target.write(files_of(end.images, ending, job.recipe, texts)), state)
    said = facts_of(job.recipe, result.state.nfe, result.rows, perf_counter() - began, files)
    print(json.dumps(said, ensure_ascii=False) if as_json else words_of(said))
    say_savings(result.savings)


def check_previews(pipe: Pipeline, how: Watching) -> None:
    """Raise ValueError where previews are asked for and there cannot be any."""
    if how.previews is not None and pipe.preview is None:
        name = pipe.model.name
        raise ValueError(f"{name} has no cheap preview: give it a small decoder, --preview-decoder PATH")


def check_video(job: Job, path: Path) -> None:
    """Raise ValueError for a video in a format that has one image."""
    check_format(path, moving=job.start.x.ndim == 5 and job.start.x.shape[2] > 1)


def facts_of(recipe: Recipe, nfe: int, rows: tuple[int, int], seconds: float, files: Sequence[Path]) -> dict[str, Any]:
    """What was written and what it took, as plain values.

    Args:
        recipe: What was drawn.
        nfe: Evaluations of the network.
        rows: See `Result.rows`.
        seconds: What it took.
        files: What was written.
    """
    facts = {"nfe": nfe, "seconds": round(seconds, 3), "recipe": recipe.to_plain()}
    if recipe.tiling:
        facts["rows"], facts["rows_saved"] = rows[0], rows[1] - rows[0]
    return {"files": [str(file) for file in files], **facts}


def words_of(facts: Mapping[str, Any]) -> str:
    """The same for people."""
    rows = f"; {rows_text(facts['rows'], facts['rows'] + facts['rows_saved'])}" if "rows" in facts else ""
    took = f"{facts['nfe']} evaluations in {facts['seconds']:.1f} s, seed {facts['recipe']['seed']}"
    return f"{written_names(facts['files'])}: {took}{rows}"


def written_names(files: Sequence[str]) -> str:
    """The files of a batch in words."""
    return files[0] if len(files) == 1 else f"{files[0]} (all) and {files[1]} … {Path(files[-1]).name}"


def say_savings(savings: Sequence[str]) -> None:
    """Say what was done where memory did not suffice."""
    if savings:
        complain(f"memory did not suffice for all at once: {' and '.join(savings)}", kind="note")
