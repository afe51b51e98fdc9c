"""Many pictures: prompts from a file, names for what they become, one load of the model for all."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import typer

from sigmafield.cli.draw import USER_ERRORS, Drawing, Machine, complain, draw, fail, user_errors, write
from sigmafield.cli.terminal import Display
from sigmafield.hints import controls_of
from sigmafield.job import open_job
from sigmafield.models.pipeline import Pipeline
from sigmafield.recipe import Recipe
from sigmafield.types import State


@dataclass(frozen=True)
class Asked:
    """A picture to draw: its recipe, the PNG or the folder to write to, and its line in the prompts' file, if any.

    Raises FileNotFoundError for a PNG in a folder that is not there.
    """

    recipe: Recipe
    output: Path | None = None
    folder: Path = Path()
    line: int | None = None

    def __post_init__(self) -> None:
        if self.output and not self.output.parent.is_dir():
            raise FileNotFoundError(f"no folder {self.output.parent} to write {self.output.name} in")

    def path(self) -> Path:
        """The PNG to write; in the folder, which is made if there is none, one that is not there yet."""
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
        raise ValueError(f"{path} is no text in UTF-8") from None
    prompts = {number: line.strip() for number, line in enumerate(lines, 1)}
    found = {number: text for number, text in prompts.items() if text and not text.startswith("#")}
    if not found:
        raise ValueError(f"{path} has no prompts: one a line is wanted, besides blank lines and # comments")
    return found


def asked_for(recipe: Recipe, prompts: dict[int, str], output: Path | None, folder: Path | None) -> list[Asked]:
    """A picture for the recipe, or for each of the prompts.

    Raises ValueError for an output and a folder, or one output for several prompts.
    """
    if output and folder:
        raise ValueError(f"give -o or --out-dir, not both; got {output} and {folder}")
    if output and prompts:
        raise ValueError(f"--prompts draws a picture for each line: give --out-dir instead of -o {output}")
    here = folder or Path()
    if prompts:
        return [Asked(replace(recipe, prompt=text), folder=here, line=line) for line, text in prompts.items()]
    return [Asked(recipe, None if folder else output or Path("out.png"), here)]


def free_path(folder: Path, recipe: Recipe) -> Path:
    """A PNG in a folder, named after prompt and seed, where neither it nor a checkpoint of it is yet."""
    words = re.sub(r"\W+", "-", recipe.prompt.lower())[:60].strip("-") or "picture"
    stem, number = f"{words}-{recipe.seed}", 1
    while any((folder / f"{stem}{end}").exists() for end in (".png", ".checkpoint.safetensors")):
        number += 1
        stem = f"{words}-{recipe.seed}_{number}"
    return folder / f"{stem}.png"


def report(
    asked: Sequence[Asked], machine: Machine, *, as_json: bool, every: int | None = None, state: State | None = None
) -> None:
    """Draw what is asked for, write the files and say what they are; a line that fails is named, and the others go on.

    every: steps between two previews beside the output; state: where the only picture asked for goes on.
    """
    first, files, failed = asked[0].recipe, [], []
    with user_errors():
        pipe = machine.load(first)
        if every is not None:
            check_previews(pipe, every)
        controls = controls_of(first.controls, pipe)
    display = Display(first, as_json, len(asked))
    for part, one in enumerate(asked):
        try:
            path, job = one.path(), open_job(one.recipe, pipe, controls)
            drawing = draw(job, state or job.start, path, display, part, every)
        except USER_ERRORS as error:
            failed.append(refuse(one, error))
            continue
        with user_errors():
            written = write(drawing.pictures, path, one.recipe)
        files.append(tell(one, drawing, written, as_json))
    if asked[0].line is not None and as_json:
        typer.echo(json.dumps({"pictures": files, "failed": failed}, ensure_ascii=False))
    elif as_json:
        typer.echo(json.dumps(files[0], ensure_ascii=False))
    if failed:
        raise typer.Exit(2)


def check_previews(pipe: Pipeline, every: int) -> None:
    """Raises ValueError where there cannot be a preview every so many steps."""
    if every < 1:
        raise ValueError(f"preview-every must be ≥ 1; got {every}")
    if pipe.preview is None:
        raise ValueError(f"{pipe.name} has no cheap preview: give it a small decoder, --preview-decoder PATH")


def refuse(one: Asked, error: Exception) -> dict[str, Any]:
    """Say what is wrong: the end of the program for a single picture, a line to skip for one of many."""
    if one.line is None:
        fail(str(error))
    complain(f"line {one.line}: {error}")
    return {"line": one.line, "prompt": one.recipe.prompt, "error": str(error)}


def tell(one: Asked, drawing: Drawing, written: list[Path], quiet: bool) -> dict[str, Any]:
    """Say what was written, and what it took; the same as plain values."""
    seconds, recipe = drawing.seconds, one.recipe
    if not quiet:
        names = str(written[0]) if len(written) == 1 else f"{written[0]} (all) and {written[1]} … {written[-1].name}"
        typer.echo(f"{names}: {drawing.nfe} evaluations in {seconds:.1f} s, seed {recipe.seed}")
    facts = {"nfe": drawing.nfe, "seconds": round(seconds, 3), "recipe": asdict(recipe)}
    line = {} if one.line is None else {"line": one.line}
    return {"files": [str(file) for file in written], **line, **facts}
