"""`sigmafield replay`: draw an image again from the recipe that it carries, and compare the pixels."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter
from PIL import Image

from sigmafield import __version__
from sigmafield.cli.flags import Given, with_flags
from sigmafield.cli.groups import FILES, MACHINE, MOVED, Json, Overwrite
from sigmafield.cli.moved import with_moved
from sigmafield.cli.runner import Watch, Watching, drawn, enough_memory
from sigmafield.cli.single import Target, check_video
from sigmafield.cli.terminal import Display
from sigmafield.comfyui.workflow.carried import workflow_texts
from sigmafield.recipes.execute import Result, open_job, open_pipe
from sigmafield.recipes.image_io import open_frames, sheets
from sigmafield.recipes.label import label, read_label
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.output import ENDINGS, as_read, encoded, recipe_of


@with_flags(moved=(MOVED,), machine=(MACHINE,))
@enough_memory()
def replay(
    file: Annotated[Path, Parameter(name="FILE", help="Image that sigmafield wrote.")],
    /,
    *,
    moved: Given,
    machine: Given,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Default: NAME-replay in its folder.", group=FILES)
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Draw an image again from the recipe that it carries, and compare the pixels.

    The status is 0 if every pixel is the same, and 1 if not.
    """
    carried, index, made_by = read_label(recipe_of(file))
    recipe = with_moved(carried, moved)
    target = Target(output or file.with_name(f"{file.stem}-replay{file.suffix}"), recipe, overwrite)
    options = MachineOptions(**machine)
    job = open_job(recipe, open_pipe(recipe, **options.load_arguments()))
    check_video(job, target.path)
    watch, texts = Watch(job, target.path, Display(json, [recipe.steps]), options, Watching()), workflow_texts(job)

    def chosen(end: Result) -> Sequence[Image.Image]:
        return sheets(end.images) if index is None else end.images[index]

    result, [written] = drawn(
        watch,
        lambda end: target.write({"": encoded(chosen(end), target.path.suffix, label(job.recipe, index), texts)}),
    )
    frames = chosen(result)
    known = open_frames(file)
    again = as_read(frames, ENDINGS.get(known[0].format or "", ".png"))
    before, after = (
        np.asarray([np.asarray(each.convert("RGB")) for each in some]).astype(int) for some in (known, again)
    )
    same = before.shape == after.shape and bool((before == after).all())
    if json:
        print(json_.dumps({"files": [str(written)], "identical": same, "made_by": made_by}))
    elif same:
        print(f"{written}: every pixel is the same as in {file}")
    else:
        by = "" if before.shape != after.shape else f" by up to {np.abs(before - after).max()} of 255"
        print(f"{written}: differs from {file}{by} (made by sigmafield {made_by}, this is {__version__})")
    sys.exit(0 if same else 1)
