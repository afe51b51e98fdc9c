"""`sigmafield resume`: finish an interrupted run."""

from __future__ import annotations

import shlex
from json import loads
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigmafield.cli.flags import Given, with_flags
from sigmafield.cli.groups import FILES, MACHINE, MOVED, CheckpointEvery, Json, Overwrite, PreviewEvery
from sigmafield.cli.moved import with_moved
from sigmafield.cli.runner import Watching
from sigmafield.cli.single import Target, draw
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.output import FORMATS
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.checkpoint import load_state
from sigmafield.runs.files import OwnFile


@with_flags(moved=(MOVED,), machine=(MACHINE,))
def resume(
    checkpoint: Annotated[Path, Parameter(help="File that an interrupted run left.")],
    /,
    *,
    moved: Given,
    machine: Given,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Default: where the run would have written.", group=FILES)
    ] = None,
    overwrite: Overwrite = False,
    preview_every: PreviewEvery = None,
    checkpoint_every: CheckpointEvery = 60.0,
    json: Json = False,
) -> None:
    """Finish an interrupted run, with exactly the pixels that it would have had; the checkpoint is then removed.

    What the model runs on is what it ran on before, unless it is given.
    """
    if checkpoint.suffix.lower() in FORMATS:
        again = shlex.join(["sigmafield", "replay", str(checkpoint)])
        raise ValueError(f"{checkpoint} is an image, not a checkpoint; draw it again with: {again}")
    state, meta = load_state(checkpoint)
    if "recipe" not in meta:
        raise ValueError(f"{checkpoint} is a state without a recipe: it was not saved by `sigmafield sample`")
    recipe = with_moved(Recipe.from_json(meta["recipe"]), moved)
    target = Target(output or Path(meta["output"]), recipe, overwrite)
    options = MachineOptions(**{**loads(meta.get("machine", "{}")), **machine})
    how, own = Watching(preview_every, checkpoint_every), OwnFile(checkpoint, mine=True)
    draw(target, options, how, as_json=json, state=state, checkpoint=own)
