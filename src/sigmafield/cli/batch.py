"""Many images: prompts from a file, names for what they become, one load of the model for all."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import typer

from sigmafield.cli.draw import USER_ERRORS, Drawing, Machine, complain, draw, fail, user_errors, write
from sigmafield.cli.terminal import Display, told_rows
from sigmafield.core.protocols import State
from sigmafield.lab.tiles import draw_tiles, tiles_of, tiles_svg
from sigmafield.models.bundle import Pipeline
from sigmafield.recipes import image_io
from sigmafield.recipes.build import Job
from sigmafield.recipes.execute import open_job
from sigmafield.recipes.inputs import controls_of
from sigmafield.recipes.recipe import Recipe


@dataclass(frozen=True)
class Asked:
    """A image to draw: its recipe, the PNG or the folder to write to, and its line in the prompts' file, if any.

    tiles: a PNG or SVG of the tiles, to write before the run; phases: a folder for the images of DemoFusion's phases
    before the last. Raises FileNotFoundError for a file in a folder that is not there and for no such folder,
    ValueError for tiles of another kind.
    """

    recipe: Recipe
    output: Path | None = None
    folder: Path = Path()
    line: int | None = None
    tiles: Path | None = None
    phases: Path | None = None

    def __post_init__(self) -> None:
        for path in (self.output, self.tiles):
            if path and not path.parent.is_dir():
                raise FileNotFoundError(f"no folder {path.parent} to write {path.name} in")
        if self.phases and not self.phases.is_dir():
            raise FileNotFoundError(f"no folder {self.phases} to write the phases in")
        if self.tiles and self.tiles.suffix.lower() not in (".png", ".svg"):
            raise ValueError(f"show-tiles must be a .png or .svg file; got {self.tiles}")

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
    """A image for the recipe, or for each of the prompts.

    Raises ValueError for an output and a folder, or one output for several prompts.
    """
    if output and folder:
        raise ValueError(f"give -o or --out-dir, not both; got {output} and {folder}")
    if output and prompts:
        raise ValueError(f"--prompts draws a image for each line: give --out-dir instead of -o {output}")
    here = folder or Path()
    if prompts:
        return [Asked(replace(recipe, prompt=text), folder=here, line=line) for line, text in prompts.items()]
    return [Asked(recipe, None if folder else output or Path("out.png"), here)]


def free_path(folder: Path, recipe: Recipe) -> Path:
    """A PNG in a folder, named after prompt and seed, where neither it nor a checkpoint of it is yet."""
    words = re.sub(r"\W+", "-", recipe.prompt.lower())[:60].strip("-") or "image"
    stem, number = f"{words}-{recipe.seed}", 1
    while any((folder / f"{stem}{end}").exists() for end in (".png", ".checkpoint.safetensors")):
        number += 1
        stem = f"{words}-{recipe.seed}_{number}"
    return folder / f"{stem}.png"


def report(
    asked: Sequence[Asked], machine: Machine, *, as_json: bool, every: int | None = None, state: State | None = None
) -> None:
    """Draw what is asked for, write the files and say what they are; a line that fails is named, and the others go on.

    every: steps between two previews beside the output; state: where the only image asked for goes on.
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
            if one.tiles:
                write_tiles(job, one.tiles)
            drawing = draw(job, state or job.start, path, display, part, every, one.phases)
        except USER_ERRORS as error:
            failed.append(refuse(one, error))
            continue
        with user_errors():
            written = write(drawing.images, path, one.recipe)
        files.append(tell(one, drawing, written, as_json))
    if asked[0].line is not None and as_json:
        typer.echo(json.dumps({"images": files, "failed": failed}, ensure_ascii=False))
    elif as_json:
        typer.echo(json.dumps(files[0], ensure_ascii=False))
    if failed:
        raise typer.Exit(2)


def write_tiles(job: Job, path: Path) -> None:
    """The tiles of a job with their strengths, as PNG or SVG."""
    image, boxes, values = tiles_of(job)
    line = min(max(image.width // 256, 1), 4)
    if path.suffix.lower() == ".svg":
        path.write_text(tiles_svg(image, boxes, values, line=float(line)), "utf-8")
    else:
        image_io.save_png(draw_tiles(image, boxes, values, line=line), path)


def check_previews(pipe: Pipeline, every: int) -> None:
    """Raises ValueError where there cannot be a preview every so many steps."""
    if every < 1:
        raise ValueError(f"preview-every must be ≥ 1; got {every}")
    if pipe.preview is None:
        raise ValueError(f"{pipe.model.name} has no cheap preview: give it a small decoder, --preview-decoder PATH")


def refuse(one: Asked, error: Exception) -> dict[str, Any]:
    """Say what is wrong: the end of the program for a single image, a line to skip for one of many."""
    if one.line is None:
        fail(str(error))
    complain(f"line {one.line}: {error}")
    return {"line": one.line, "prompt": one.recipe.prompt, "error": str(error)}


def tell(one: Asked, drawing: Drawing, written: list[Path], quiet: bool) -> dict[str, Any]:
    """Say what was written, and what it took; the same as plain values."""
    seconds, recipe = drawing.seconds, one.recipe
    if not quiet:
        names = str(written[0]) if len(written) == 1 else f"{written[0]} (all) and {written[1]} … {written[-1].name}"
        rows = f"; {told_rows(*drawing.rows)}" if recipe.tiling else ""
        typer.echo(f"{names}: {drawing.nfe} evaluations in {seconds:.1f} s, seed {recipe.seed}{rows}")
    facts = {"nfe": drawing.nfe, "seconds": round(seconds, 3), "recipe": asdict(recipe)}
    if recipe.tiling:
        facts["rows"], facts["rows_saved"] = drawing.rows[0], drawing.rows[1] - drawing.rows[0]
    line = {} if one.line is None else {"line": one.line}
    return {"files": [str(file) for file in written], **line, **facts}
