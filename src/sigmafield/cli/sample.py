"""`sigmafield sample`: an image from a prompt, or one for each line of a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigmafield.cli.batch import draw_all
from sigmafield.cli.batch_server import default_model
from sigmafield.cli.flags import Given, with_flags
from sigmafield.cli.groups import (
    CANVAS,
    FILES,
    IMAGE,
    MACHINE,
    MODEL,
    SAMPLING,
    STEERING,
    CheckpointEvery,
    Json,
    Negative,
    Output,
    Overwrite,
    PreviewEvery,
    RayCluster,
    Size,
)
from sigmafield.cli.parse import parse_size
from sigmafield.cli.prompts import DRAWN, read_lines
from sigmafield.cli.remote import Server, refuse_here
from sigmafield.cli.remote_draw import draw_there
from sigmafield.cli.runner import Watching
from sigmafield.cli.single import draw, target_of
from sigmafield.cli.understood import say_understood
from sigmafield.core.registry import shown
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.recipe import Recipe


@with_flags(recipe=(SAMPLING, CANVAS, IMAGE, STEERING, MODEL), machine=(MACHINE,))
def sample(
    prompt: Annotated[str | None, Parameter(help="What to draw.")] = None,
    /,
    *,
    recipe: Given,
    machine: Given,
    negative: Negative = "",
    output: Output = None,
    out_dir: Annotated[
        Path | None,
        Parameter(
            help="Folder to write to, under names of prompt and seed; nothing is overwritten. For --prompts the "
            "default is the current folder.",
            group=FILES,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        Parameter(
            help="File with a prompt, or a JSON object of a recipe's fields, per line; - is standard input. The same "
            "command again goes on where it was stopped.",
            allow_leading_hyphen=True,
            group=FILES,
        ),
    ] = None,
    overwrite: Overwrite = False,
    preview_every: PreviewEvery = None,
    checkpoint_every: CheckpointEvery = 60.0,
    size: Size = None,
    ray: RayCluster = None,
    server: Server = None,
    json: Json = False,
) -> None:
    """Draw an image from a prompt, or one for each line of a file.

    The file carries its recipe: `sigmafield replay` draws it again.
    Ctrl-C keeps a checkpoint: `sigmafield resume` finishes it.
    """
    if prompt is None and prompts is None:
        raise ValueError('give a prompt, such as "a red heart", or --prompts FILE with one per line')
    if prompt is not None and prompts is not None:
        raise ValueError(f"give a prompt or --prompts, not both; got {shown(prompt)} and {prompts}")
    whole, how = Recipe(prompt or "", negative, **recipe, **parse_size(size)), Watching(preview_every, checkpoint_every)
    say_understood(recipe, whole, quiet=json)
    options = MachineOptions(**machine)
    if server:
        refuse_here({**machine, "ray": ray})
    if prompts is None:
        if ray is not None:
            raise ValueError("--ray draws the lines of a file: give --prompts FILE")
        target = target_of(whole, output, out_dir, overwrite)
        if server:
            draw_there(server, target, how, recipe, as_json=json)
        else:
            draw(target, options, how, as_json=json)
        return
    if output is not None or overwrite:
        given = "--overwrite" if output is None else f"-o {output}"
        raise ValueError(f"--prompts draws an image for each line: give --out-dir instead of {given}")
    if server and "model" not in recipe:
        whole = replace(whole, model=default_model(server))
    lines = read_lines(prompts, whole, drawn=recipe.get("seed") in DRAWN)
    draw_all(lines, out_dir or Path(), prompts, options, how, as_json=json, cluster=ray, server=server)
