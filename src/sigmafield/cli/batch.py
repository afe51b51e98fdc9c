"""Many images: prompts from a file, names for what they become, one load of the model for all."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from sigmafield.cli.errors import USER_ERRORS, complain, fail
from sigmafield.cli.runner import check_folder, draw, write
from sigmafield.cli.terminal import Display, rows_text
from sigmafield.cli.understood import say_notes, say_unchanged
from sigmafield.core.protocols import State
from sigmafield.lab.tiles import write_tiles
from sigmafield.models.bundle import Pipeline
from sigmafield.recipes.execute import Result, open_job, open_pipe
from sigmafield.recipes.inputs import controls_of, read_inputs
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.recipe import Recipe


@dataclass(frozen=True)
class Asked:
    """An image to draw.

    Args:
        recipe: What to draw.
        output: The PNG to write; None names it after prompt and seed, in `folder`.
        folder: Where to write without an output.
        line: Its line in the file of prompts, from 1; None is a single image.
        tiles: A PNG or SVG of the tiles, written before the run.
        phases: A folder for the images of the phases before the last.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: The tiles' file has another ending.
    """

    recipe: Recipe
    output: Path | None = None
    folder: Path = Path()
    line: int | None = None
    tiles: Path | None = None
    phases: Path | None = None

    def __post_init__(self) -> None:
        for path in (self.output, self.tiles):
            if path:
                check_folder(path)
        if self.phases and not self.phases.is_dir():
            raise FileNotFoundError(f"no folder {self.phases} to write the phases in")
        if self.tiles and self.tiles.suffix.lower() not in (".png", ".svg"):
            raise ValueError(f"show-tiles must be a .png or .svg file; got {self.tiles}")

    def path(self) -> Path:
        """The PNG to write; in the folder, which is made if it does not exist, under a name that is free."""
        if self.output:
            return self.output
        self.folder.mkdir(parents=True, exist_ok=True)
        return free_path(self.folder, self.recipe)


def read_prompts(path: Path) -> dict[int, str]:
    """The prompts of a file by their line numbers from 1; blank lines and those that begin with # are left out."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"no file of prompts at {path}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8") from None
    prompts = {number: line.strip() for number, line in enumerate(lines, 1)}
    found = {number: text for number, text in prompts.items() if text and not text.startswith("#")}
    if not found:
        raise ValueError(f"{path} has no prompts: it needs one per line; blank lines and # comments are skipped")
    return found


def asked_for(recipe: Recipe, prompts: dict[int, str], output: Path | None, folder: Path | None) -> list[Asked]:
    """An image for the recipe, or for each of the prompts.

    Raises:
        ValueError: An output and a folder are given, or one output for several prompts.
    """
    if output and folder:
        raise ValueError(f"give -o or --out-dir, not both; got {output} and {folder}")
    if output and prompts:
        raise ValueError(f"--prompts draws an image for each line: give --out-dir instead of -o {output}")
    here = folder or Path()
    if prompts:
        return [Asked(replace(recipe, prompt=text), folder=here, line=line) for line, text in prompts.items()]
    return [Asked(recipe, None if folder else output or Path("out.png"), here)]


def free_path(folder: Path, recipe: Recipe) -> Path:
    """A PNG in a folder, named after prompt and seed, where neither it nor a checkpoint of it exists yet."""
    words = re.sub(r"\W+", "-", recipe.prompt.lower())[:60].strip("-") or "image"
    stem, number = f"{words}-{recipe.seed}", 1
    while any((folder / f"{stem}{end}").exists() for end in (".png", ".checkpoint.safetensors")):
        number += 1
        stem = f"{words}-{recipe.seed}_{number}"
    return folder / f"{stem}.png"


def report(
    asked: Sequence[Asked],
    machine: MachineOptions,
    *,
    as_json: bool,
    every: int | None = None,
    state: State | None = None,
) -> None:
    """Draw what is asked for, write the files and say what they are; a line that fails is named, and the others go on.

    Args:
        asked: The images, all of one model and with the same inputs.
        machine: What the model runs on.
        as_json: Print JSON for machines, and no progress.
        every: Steps between two preview files; None writes none.
        state: Where the only image asked for goes on.
    """
    sealed, inputs = read_inputs(asked[0].recipe)  # before the model is loaded, which takes longer
    pipe = open_pipe(sealed, **machine.load_arguments())
    if every is not None:
        check_previews(pipe, every)
    controls = controls_of(sealed.controls, inputs.hints, pipe)
    display, files, failed = Display(sealed, as_json, len(asked)), [], []
    for part, one in enumerate(asked):
        began = perf_counter()
        try:
            path, job = one.path(), open_job(replace(sealed, prompt=one.recipe.prompt), pipe, inputs, controls)
            say_unchanged(job.run)
            if part == 0:
                say_notes(job, quiet=as_json)
            if one.tiles:
                write_tiles(job, inputs, one.tiles)
            result = draw(job, state, path, display, part, every, one.phases)
        except USER_ERRORS as error:
            failed.append(refuse(one, error))
            continue
        written = write(result.images, path, job.recipe)
        files.append(said(one, job.recipe, result, perf_counter() - began, written, as_json))
    if asked[0].line is not None and as_json:
        print(json.dumps({"images": files, "failed": failed}, ensure_ascii=False))
    elif as_json:
        print(json.dumps(files[0], ensure_ascii=False))
    if failed:
        sys.exit(2)


def check_previews(pipe: Pipeline, every: int) -> None:
    """Raise ValueError where there cannot be a preview every this many steps."""
    if every < 1:
        raise ValueError(f"preview-every must be ≥ 1; got {every}")
    if pipe.preview is None:
        name = pipe.model.name
        raise ValueError(f"{name} has no cheap preview: give it a small decoder, --preview-decoder PATH")


def refuse(one: Asked, error: Exception) -> dict[str, Any]:
    """Say what is wrong: the end of the program for a single image, a line to skip for one of many."""
    if one.line is None:
        fail(str(error))
    complain(f"line {one.line}: {error}")
    return {"line": one.line, "prompt": one.recipe.prompt, "error": str(error)}


def said(
    one: Asked, recipe: Recipe, result: Result, seconds: float, written: list[Path], quiet: bool
) -> dict[str, Any]:
    """Say what was written, and what it took; the same as plain values."""
    nfe = result.state.nfe
    if not quiet:
        names = str(written[0]) if len(written) == 1 else f"{written[0]} (all) and {written[1]} … {written[-1].name}"
        rows = f"; {rows_text(*result.rows)}" if recipe.tiling else ""
        print(f"{names}: {nfe} evaluations in {seconds:.1f} s, seed {recipe.seed}{rows}")
    facts = {"nfe": nfe, "seconds": round(seconds, 3), "recipe": recipe.to_plain()}
    if recipe.tiling:
        facts["rows"], facts["rows_saved"] = result.rows[0], result.rows[1] - result.rows[0]
    line = {} if one.line is None else {"line": one.line}
    return {"files": [str(file) for file in written], **line, **facts}
