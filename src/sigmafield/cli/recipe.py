"""`sigmafield recipe`: the recipe of an image, of sigmafield or of another program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigmafield.cli.errors import complain
from sigmafield.cli.flags import with_flags
from sigmafield.recipes.image_io import recipe_of
from sigmafield.recipes.other_programs import read_recipe
from sigmafield.recipes.recipe import Recipe


@with_flags()
def recipe(file: Annotated[Path, Parameter(help="Image to read.")], /) -> None:
    """Print the recipe of an image as JSON, from what sigmafield or another program wrote into it.

    Images of A1111, ComfyUI, Fooocus, InvokeAI, NovelAI and SwarmUI are read as far as a recipe goes; what could not
    be taken over is said on the error stream.
    """
    try:
        own = recipe_of(file)
    except ValueError:  # of another program, if of any
        found, notes = read_recipe(file)
    else:
        found, notes = own_recipe(own, file), []
    for note in notes:
        complain(note, kind="note")
    print(found.to_json())


def own_recipe(text: str, file: Path) -> Recipe:
    """The recipe of what sigmafield wrote into a file; ValueError if it has been changed into something else."""
    try:
        carried = json.loads(text)["recipe"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"the recipe in {file} is damaged: it is not what sigmafield wrote") from None
    return Recipe.from_json(json.dumps(carried))
