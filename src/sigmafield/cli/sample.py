"""`sigmafield sample`: an image from a prompt, or one for each prompt of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigmafield.cli.batch import asked_for, read_prompts, report
from sigmafield.cli.flags import Given, with_flags
from sigmafield.cli.groups import (
    CANVAS,
    FILES,
    IMAGE,
    MACHINE,
    MODEL,
    SAMPLING,
    STEERING,
    Json,
    Negative,
    Output,
    PreviewEvery,
    Size,
)
from sigmafield.cli.parse import parse_size
from sigmafield.cli.understood import say_understood
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
        Parameter(help="Folder to write to, named by prompt and seed; nothing is overwritten.", group=FILES),
    ] = None,
    prompts: Annotated[
        Path | None,
        Parameter(help="Text file with one prompt per line; blank lines and # comments are skipped.", group=FILES),
    ] = None,
    preview_every: PreviewEvery = None,
    size: Size = None,
    json: Json = False,
) -> None:
    """Draw an image from a prompt, or one for each prompt of a file.

    The PNG carries its recipe: `sigmafield replay` draws it again.
    Ctrl-C keeps a checkpoint: `sigmafield resume` finishes it.
    """
    if (prompt is None) == (prompts is None):
        raise ValueError('give a prompt, such as "a red heart", or --prompts FILE with one per line')
    many = read_prompts(prompts) if prompts else {}
    text = prompt if prompt is not None else next(iter(many.values()))
    whole = Recipe(text, negative, **recipe, **parse_size(size))
    say_understood(recipe, whole, quiet=json)
    asked = asked_for(whole, many, output, out_dir)
    report(asked, MachineOptions(**machine), as_json=json, every=preview_every)
