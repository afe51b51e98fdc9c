"""Running a recipe in a terminal: progress, preview, interruption, files, comparison."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import typer
from PIL import Image
from rich.console import Console

from sigmafield import __version__, images
from sigmafield.checkpoint import save_state
from sigmafield.cli.terminal import Display
from sigmafield.methods import Method
from sigmafield.models import load
from sigmafield.recipe import Job, Recipe, Region, open_job
from sigmafield.schedules import Schedule
from sigmafield.types import State


@contextmanager
def user_errors() -> Iterator[None]:
    """Errors about what the user gave end the program with status 2 and one line."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))


def fail(message: str, status: int = 2) -> None:
    """End the program with one line on the error stream."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {' '.join(message.split())}")
    raise typer.Exit(status)


def parse_size(text: str | None) -> tuple[int | None, int | None]:
    """(width, height) from 'WxH'."""
    if text is None:
        return None, None
    width, x, height = text.lower().partition("x")
    if not (x and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"size must be WIDTHxHEIGHT in pixels, such as 512x768; got {text!r}")
    return int(width), int(height)


def parse_shift(text: str | None) -> float | Literal["size"] | None:
    """A time shift: a number, or 'size'."""
    if text is None or text == "size":
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"shift must be a number above 0 or 'size'; got {text!r}") from None


def parse_region(text: str) -> Region:
    """A region from 'x,y,width,height:prompt' or 'x,y,width,height:prompt:strength'."""
    box, colon, rest = text.partition(":")
    prompt, _, strength = rest.rpartition(":")
    try:
        weight = float(strength) if prompt else 1.0
    except ValueError:  # a colon of the prompt's own
        prompt, weight = "", 1.0
    try:
        x, y, width, height = (int(number) for number in box.split(","))
    except ValueError:
        colon = ""
    if not colon or not rest:
        raise ValueError(f"a region must be X,Y,W,H:PROMPT or X,Y,W,H:PROMPT:STRENGTH; got {text!r}")
    return Region(prompt or rest, x, y, width, height, weight)


def parse_params(owner: Method | Schedule, pairs: list[str]) -> dict[str, Any]:
    """A sampler's or schedule's parameters from 'name=value' texts; values of the type that the default has."""
    params: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"a parameter must be name=value, such as eta=0.5; got {pair!r}")
        owner.check({name: text})
        default = owner.defaults[name]
        kind = float if default is None else type(default)
        try:
            params[name] = PARSERS[kind](text)
        except KeyError:
            raise ValueError(f"{owner.name}'s {name} is a function: give it in Python") from None
        except ValueError:
            raise ValueError(f"{owner.name}'s {name} must be {kind.__name__}; got {text!r}") from None
    return params


def _truth(text: str) -> bool:
    """true or false, yes or no, 1 or 0."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


PARSERS: dict[type, Callable[[str], Any]] = {int: int, float: float, str: str, bool: _truth}
"""How the text of a parameter is read, by the type of its default."""


@dataclass(frozen=True)
class Drawing:
    """A finished run: the frames of each picture, one but for videos, and what it took."""

    pictures: list[list[Image.Image]]
    nfe: int
    seconds: float


@dataclass(frozen=True)
class Loading:
    """How a model is run here: the options of `load` that a recipe does not carry."""

    device: str | None = None
    dtype: str | None = None
    offload: bool = False
    compile: bool = False


def draw(recipe: Recipe, output: Path, *, how: Loading, quiet: bool, state: State | None = None) -> Drawing:
    """Run a recipe, from a state if one is given; an interruption leaves a checkpoint and ends the program."""
    with user_errors():
        if not output.parent.is_dir():
            raise FileNotFoundError(f"no folder {output.parent} to write {output.name} in")
        pipe = load(recipe.model, parts=recipe.parts, **asdict(how))
        job = open_job(recipe, pipe)
    state = state or job.start
    state = replace(state, x=state.x.to(pipe.device))
    began = time.perf_counter()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is an interruption too
    try:
        with Display(recipe, quiet) as display:
            while not job.run.done(state):
                display.update(job, state)
                state = job.run.step(state)
        pictures = job.pictures(state)
        frames = len(pictures) // recipe.batch
        apart = [pictures[k : k + frames] for k in range(0, len(pictures), frames)]
        return Drawing(apart, state.nfe, time.perf_counter() - began)
    except KeyboardInterrupt:
        keep(job, state, output)
        raise typer.Exit(130) from None


def keep(job: Job, state: State, output: Path) -> None:
    """Save an interrupted run beside its output and say how to go on."""
    path = output.with_name(f"{output.stem}.checkpoint.safetensors")
    save_state(state, path, {"recipe": job.recipe.to_json(), "output": str(output)})
    done = "1 step" if state.i == 1 else f"{state.i} steps"
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"interrupted after {done}; finish it with: [bold]sigmafield resume {path}[/]"
    )


def report(
    recipe: Recipe,
    output: Path,
    *,
    how: Loading,
    as_json: bool,
    state: State | None = None,
) -> None:
    """Run a recipe, write its files and say what they are."""
    drawing = draw(recipe, output, how=how, quiet=as_json, state=state)
    with user_errors():
        files = write(drawing.pictures, output, recipe)
    if as_json:
        facts = {"nfe": drawing.nfe, "seconds": round(drawing.seconds, 3), "recipe": asdict(recipe)}
        typer.echo(json.dumps({"files": [str(file) for file in files], **facts}, ensure_ascii=False))
    else:
        names = str(files[0]) if len(files) == 1 else f"{files[0]} (all) and {files[1]} … {files[-1].name}"
        typer.echo(f"{names}: {drawing.nfe} evaluations in {drawing.seconds:.1f} s, seed {recipe.seed}")


def write(pictures: list[list[Image.Image]], output: Path, recipe: Recipe) -> list[Path]:
    """One PNG, or for a batch a sheet of all and one PNG each; all carry the recipe.

    Videos are animated PNGs, and NAME-frames.png beside them is a sheet of all frames.
    """
    files, index = [output], None if len(pictures) > 1 else 0
    whole = sheets(pictures) if len(pictures) > 1 else pictures[0]
    images.save_png(whole[0], output, label(recipe, index), whole[1:])
    for k, frames in enumerate(pictures if len(pictures) > 1 else ()):
        files.append(output.with_name(f"{output.stem}-{k + 1}{output.suffix}"))
        images.save_png(frames[0], files[-1], label(recipe, k), frames[1:])
    if len(whole) > 1:
        images.save_png(images.sheet(whole), output.with_name(f"{output.stem}-frames{output.suffix}"))
    return files


def sheets(pictures: list[list[Image.Image]]) -> list[Image.Image]:
    """A sheet of all pictures for each frame."""
    return [images.sheet(frame) for frame in zip(*pictures)]


def label(recipe: Recipe, index: int | None) -> str:
    """What a PNG carries: the recipe and which picture of the batch it is, None = the sheet of all."""
    return json.dumps({"sigmafield": __version__, "picture": index, "recipe": asdict(recipe)}, ensure_ascii=False)


def again(path: Path, output: Path | None, image: Path | None, *, how: Loading, as_json: bool) -> None:
    """Draw a PNG again and compare: status 0 if every pixel is the same, 1 if not."""
    with user_errors():
        carried = json.loads(images.recipe_of(path))
        recipe, index = Recipe.from_json(json.dumps(carried["recipe"])), carried["picture"]
        if image:
            recipe = replace(recipe, image=str(image))
        output = output or path.with_name(f"{path.stem}-replay{path.suffix}")
    drawing = draw(recipe, output, how=how, quiet=as_json)
    frames = sheets(drawing.pictures) if index is None else drawing.pictures[index]
    with user_errors():
        images.save_png(frames[0], output, label(recipe, index), frames[1:])
    before = np.asarray(images.open_frames(path)).astype(int)
    after = np.asarray(images.open_frames(output)).astype(int)
    same = before.shape == after.shape and bool((before == after).all())
    if as_json:
        typer.echo(json.dumps({"files": [str(output)], "identical": same, "made_by": carried["sigmafield"]}))
    elif same:
        typer.echo(f"{output}: every pixel is the same as in {path}")
    else:
        typer.echo(
            f"{output}: differs from {path} by up to {np.abs(before - after).max()} of 255 "
            f"(made by sigmafield {carried['sigmafield']}, this is {__version__})"
        )
    raise typer.Exit(0 if same else 1)
