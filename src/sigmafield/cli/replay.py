"""`sigmafield replay`: draw an image again from the recipe that it carries, and compare the pixels."""

from __future__ import annotations

import json as json_
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from sigmafield import __version__
from sigmafield.cli.flags import Given, with_flags
from sigmafield.cli.groups import FILES, MACHINE, MOVED, Json, Overwrite
from sigmafield.cli.moved import with_moved
from sigmafield.cli.remote import Server, refuse_here
from sigmafield.cli.remote_draw import replay_there
from sigmafield.cli.replay_here import replay_here
from sigmafield.cli.runner import enough_memory
from sigmafield.cli.single import Target
from sigmafield.recipes.image_io import open_frames
from sigmafield.recipes.label import read_label
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.output import ENDINGS, as_read, recipe_of


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
    server: Server = None,
    json: Json = False,
) -> None:
    """Draw an image again from the recipe that it carries, and compare the pixels.

    The status is 0 if every pixel is the same, and 1 if not.
    """
    carried, index, made_by = read_label(recipe_of(file))
    recipe = with_moved(carried, moved)
    target = Target(output or file.with_name(f"{file.stem}-replay{file.suffix}"), recipe, overwrite)
    options = MachineOptions(**machine)
    if server:
        refuse_here(machine)
        frames, written = replay_there(server, recipe, target, index, as_json=json)
    else:
        frames, written = replay_here(recipe, target, index, options, as_json=json)
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
