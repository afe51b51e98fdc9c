"""Running a recipe in a terminal: progress, preview, interruption, files, comparison."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import typer
from PIL import Image
from rich.console import Console

from sigmafield import __version__
from sigmafield.cli.terminal import Display
from sigmafield.core.parameters import WORDS
from sigmafield.core.protocols import State
from sigmafield.core.registry import near_miss
from sigmafield.models.bundle import Pipeline
from sigmafield.recipes import image_io
from sigmafield.recipes.build import Job
from sigmafield.recipes.execute import open_job, open_pipe
from sigmafield.recipes.inputs import ControlImage
from sigmafield.recipes.recipe import Lora, Recipe, Region
from sigmafield.runs.checkpoint import moved, save_state
from sigmafield.runs.multiphase import Phases
from sigmafield.samplers import Sampler
from sigmafield.schedules import Schedule

USER_ERRORS = (ValueError, OSError, ImportError)
"""What is raised about things that the user gave."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Errors about what the user gave end the program with status 2 and one line."""
    try:
        yield
    except USER_ERRORS as error:
        fail(str(error))


def complain(message: str) -> None:
    """One line on the error stream."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {' '.join(message.split())}")


def fail(message: str, status: int = 2) -> None:
    """End the program with one line on the error stream."""
    complain(message)
    raise typer.Exit(status)


@dataclass(frozen=True)
class Machine:
    """What a model runs on: `load`'s arguments."""

    device: str | None = None
    dtype: str | None = None
    offload: bool = False
    compile: bool = False
    max_rows: int | None = None
    preview: Path | None = None

    def load(self, recipe: Recipe) -> Pipeline:
        """The recipe's model, as `open_pipe` gives it."""
        return open_pipe(recipe, **asdict(self))


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


def parse_control(text: str) -> ControlImage:
    """A image that steers from 'net=DIR,image=PNG,strength=0.8,start=0,end=0.5': paths may have commas and colons."""
    names = [f.name for f in fields(ControlImage) if f.name != "image_sha256"]
    pairs = [pair.partition("=") for pair in re.split(r",(?=\w+=)", text)]
    values: dict[str, Any] = {name: value for name, _, value in pairs}
    for name in values:
        if name not in names:
            raise ValueError(f"a control has no entry {name!r}{near_miss(name, names)}")
    if not all(values.get(name) for name in ("net", "image")):
        raise ValueError(
            f"a control must be net=DIR,image=PNG and, if wanted, strength=0.8,start=0,end=1; got {text!r}"
        )
    for name in values.keys() & {"strength", "start", "end"}:
        try:
            values[name] = float(values[name])
        except ValueError:
            raise ValueError(f"a control's {name} must be a number; got {values[name]!r}") from None
    return ControlImage(**values)


def parse_lora(text: str) -> Lora:
    """A LoRA from 'file' or 'file:strength'."""
    path, _, strength = text.rpartition(":")
    try:
        weight = float(strength) if path else 1.0
    except ValueError:  # a colon of the path's own
        path, weight = "", 1.0
    return Lora(path or text, weight)


def parse_params(owner: Sampler | Schedule, pairs: list[str]) -> dict[str, Any]:
    """A sampler's or schedule's parameters from 'name=value' texts; their ranges are checked with the recipe."""
    params: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"a parameter must be name=value, such as eta=0.5; got {pair!r}")
        if name not in owner.parameters:
            owner.check({name: text})  # says which there are
        kind = owner.parameters[name].kind
        if kind is None:
            raise ValueError(f"{owner.name}'s {name} is a function: give it in Python")
        try:
            params[name] = PARSERS[kind](text)
        except ValueError:
            raise ValueError(f"{owner.name} needs {name} to be {WORDS[kind]}; got {text!r}") from None
    return params


def _truth(text: str) -> bool:
    """true or false, yes or no, 1 or 0."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


PARSERS: dict[type, Callable[[str], Any]] = {int: int, float: float, str: str, bool: _truth}
"""How the text of a parameter is read, by its type."""


@dataclass(frozen=True)
class Drawing:
    """A finished run: the frames of each image, one but for videos, and what it took.

    rows: network rows, and those that plain tiling would have taken; 0 without tiles.
    """

    images: list[list[Image.Image]]
    nfe: int
    seconds: float
    rows: tuple[int, int] = (0, 0)


def draw(
    job: Job,
    state: State,
    output: Path,
    display: Display,
    part: int = 0,
    preview_every: int | None = None,
    phases: Path | None = None,
) -> Drawing:
    """Run a job from a state; an interruption leaves a checkpoint beside the output and ends the program.

    part: which of the display's images it is; preview_every: steps between two previews beside the output;
    phases: a folder for the images of the phases before the last.
    """
    state = moved(state, job.pipe.device)
    began = time.perf_counter()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is an interruption too
    try:
        with display:
            while not job.run.done(state):
                display.update(job, state, part)
                state = job.run.step(state)
                if preview_every and state.i % preview_every == 0:
                    preview = image_io.sheet(job.preview(state))
                    image_io.save_png(preview, output.with_name(f"{output.stem}-preview.png"))
                if phases and isinstance(job.run, Phases) and state.i in job.run.ends[:-1]:
                    scale = job.run.ends.index(state.i) + 1
                    image_io.save_png(image_io.sheet(job.images(state)), phases / f"{output.stem}-{scale}x.png")
        images = job.images(state)
        frames = len(images) // job.recipe.batch
        apart = [images[k : k + frames] for k in range(0, len(images), frames)]
        return Drawing(apart, state.nfe, time.perf_counter() - began, job.rows(state))
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


def write(images: list[list[Image.Image]], output: Path, recipe: Recipe) -> list[Path]:
    """One PNG, or for a batch a sheet of all and one PNG each; all carry the recipe.

    Videos are animated PNGs, and NAME-frames.png beside them is a sheet of all frames.
    """
    files, index = [output], None if len(images) > 1 else 0
    whole = sheets(images) if len(images) > 1 else images[0]
    image_io.save_png(whole[0], output, label(recipe, index), whole[1:])
    for k, frames in enumerate(images if len(images) > 1 else ()):
        files.append(output.with_name(f"{output.stem}-{k + 1}{output.suffix}"))
        image_io.save_png(frames[0], files[-1], label(recipe, k), frames[1:])
    if len(whole) > 1:
        image_io.save_png(image_io.sheet(whole), output.with_name(f"{output.stem}-frames{output.suffix}"))
    return files


def sheets(images: list[list[Image.Image]]) -> list[Image.Image]:
    """A sheet of all images for each frame."""
    return [image_io.sheet(frame) for frame in zip(*images)]


def label(recipe: Recipe, index: int | None) -> str:
    """What a PNG carries: the recipe and which image of the batch it is, None = the sheet of all."""
    return json.dumps({"sigmafield": __version__, "image": index, "recipe": asdict(recipe)}, ensure_ascii=False)


def again(path: Path, output: Path | None, image: Path | None, machine: Machine, *, as_json: bool) -> None:
    """Draw a PNG again and compare: status 0 if every pixel is the same, 1 if not."""
    with user_errors():
        carried = json.loads(image_io.recipe_of(path))
        recipe, index = Recipe.from_json(json.dumps(carried["recipe"])), carried["image"]
        if image:
            recipe = replace(recipe, image=str(image))
        output = output or path.with_name(f"{path.stem}-replay{path.suffix}")
        if not output.parent.is_dir():
            raise FileNotFoundError(f"no folder {output.parent} to write {output.name} in")
        job = open_job(recipe, machine.load(recipe))
        drawing = draw(job, job.start, output, Display(recipe, as_json))
    frames = sheets(drawing.images) if index is None else drawing.images[index]
    with user_errors():
        image_io.save_png(frames[0], output, label(recipe, index), frames[1:])
    before = np.asarray(image_io.open_frames(path)).astype(int)
    after = np.asarray(image_io.open_frames(output)).astype(int)
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
