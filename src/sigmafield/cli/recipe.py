"""`sigmafield recipe`: the recipe of an image, of sigmafield or of another program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigmafield.cli.errors import complain
from sigmafield.cli.flags import with_flags
from sigmafield.comfyui.workflow.to_recipe import recipe_of as prompt_recipe
from sigmafield.comfyui.workflow.value import Workflow
from sigmafield.recipes.label import read_label
from sigmafield.recipes.other_programs import read_recipe
from sigmafield.recipes.output import recipe_of
from sigmafield.recipes.recipe import Recipe


@with_flags()
def recipe(file: Annotated[Path, Parameter(help="Image to read.")], /) -> None:
    """Print the recipe of an image as JSON, from what sigmafield or another program wrote into it.

    A ComfyUI workflow that has the shape of a recipe becomes that recipe; other images of ComfyUI, and those of A1111,
    Fooocus, InvokeAI, NovelAI and SwarmUI, are read as far as a recipe goes. What could not be taken over is said on
    the error stream.
    """
    try:
        own = recipe_of(file)
    except ValueError:  # of another program, if of any
        found, notes = _of_others(file)
    else:
        found, notes = own_recipe(own, file), []
    for note in notes:
        complain(note, kind="note")
    print(found.to_json())


def _of_others(file: Path) -> tuple[Recipe, Sequence[str]]:
    """The recipe of an image of another program, and what is to be known about it, one sentence each."""
    try:
        return prompt_recipe(Workflow.load(file).prompt)
    except ValueError:  # not ComfyUI's, or a workflow of another shape
        return read_recipe(file)


def own_recipe(text: str, file: Path) -> Recipe:
    """The recipe of what sigmafield wrote into a file; ValueError if it has been changed into something else."""
    try:
        return read_label(text).recipe
    except ValueError as error:
        raise ValueError(f"the recipe in {file} is damaged: {error}") from None
