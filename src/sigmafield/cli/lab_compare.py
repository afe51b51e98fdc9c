"""`sigmafield lab compare`: two images side by side, with their recipes."""

from __future__ import annotations

import dataclasses
import json as json_
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigmafield.cli.flags import with_flags
from sigmafield.cli.groups import FILES, Json
from sigmafield.cli.recipe import own_recipe
from sigmafield.lab.comparison import compare as compared
from sigmafield.lab.comparison import drawn
from sigmafield.recipes.image_io import open_image
from sigmafield.recipes.output import recipe_of


@with_flags()
def compare(
    a: Annotated[Path, Parameter(name="A", help="An image of sigmafield.")],
    b: Annotated[Path, Parameter(name="B", help="Another one, of the same size.")],
    /,
    *,
    way: Annotated[
        bool, Parameter(negative="--no-way", help="Draw both again, to find the step in which they part.")
    ] = True,
    plot: Annotated[Path | None, Parameter(help="PNG to draw the way and the frequencies in.", group=FILES)] = None,
    json: Json = False,
) -> None:
    """Say what differs between two images: recipes, pixels, frequencies, and the step in which their runs part.

    For example:  sigmafield lab compare heart.png heart_2.png
    """
    recipes = own_recipe(recipe_of(a), a), own_recipe(recipe_of(b), b)
    found = compared(open_image(a), open_image(b), recipes, way)
    if plot is not None:
        drawn(found).savefig(plot, dpi=150)
    if json:
        print(json_.dumps(dataclasses.asdict(found), ensure_ascii=False))
        return
    for sentence in found.sentences():
        print(sentence)
