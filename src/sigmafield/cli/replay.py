"""`sigmafield replay`: draw an image again from the recipe that its PNG carries, and compare the pixels."""

from __future__ import annotations

import json as json_
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from sigmafield import __version__
from sigmafield.cli.flags import Given, with_flags
from sigmafield.cli.groups import FILES, MACHINE, Json
from sigmafield.cli.runner import check_folder, draw, label
from sigmafield.cli.terminal import Display
from sigmafield.recipes.execute import open_job, open_pipe
from sigmafield.recipes.image_io import open_frames, recipe_of, save_png, sheets
from sigmafield.recipes.label import read_label
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.recipe import with_entries


@with_flags(machine=(MACHINE,))
def replay(
    png: Annotated[Path, Parameter(help="PNG that sigmafield wrote.")],
    /,
    *,
    machine: Given,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Default: NAME-replay.png in its folder.", group=FILES)
    ] = None,
    image: Annotated[Path | None, Parameter(help="Where the input image is now, if it has moved.", group=FILES)] = None,
    json: Json = False,
) -> None:
    """Draw an image again from the recipe that its PNG carries, and compare the pixels.

    The status is 0 if every pixel is the same, and 1 if not.
    """
    recipe, index, made_by = read_label(recipe_of(png))
    if image:
        recipe = with_entries(recipe, image=str(image), image_sha256=recipe.image_sha256)
    output = output or png.with_name(f"{png.stem}-replay{png.suffix}")
    check_folder(output)
    job = open_job(recipe, open_pipe(recipe, **MachineOptions(**machine).load_arguments()))
    images = draw(job, None, output, Display(recipe, json)).images
    frames = sheets(images) if index is None else images[index]
    save_png(frames[0], output, label(job.recipe, index), frames[1:])
    before, after = (np.asarray(open_frames(path)).astype(int) for path in (png, output))
    same = before.shape == after.shape and bool((before == after).all())
    if json:
        print(json_.dumps({"files": [str(output)], "identical": same, "made_by": made_by}))
    elif same:
        print(f"{output}: every pixel is the same as in {png}")
    else:
        by = "" if before.shape != after.shape else f" by up to {np.abs(before - after).max()} of 255"
        print(f"{output}: differs from {png}{by} (made by sigmafield {made_by}, this is {__version__})")
    sys.exit(0 if same else 1)
