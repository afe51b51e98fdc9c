"""`sigmafield resume`: finish an interrupted run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigmafield.cli.batch import Asked, report
from sigmafield.cli.flags import Given, with_flags
from sigmafield.cli.groups import FILES, MACHINE, Json
from sigmafield.recipes.options import MachineOptions
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.checkpoint import load_state


@with_flags(machine=(MACHINE,))
def resume(
    checkpoint: Annotated[Path, Parameter(help="File that an interrupted run left.")],
    /,
    *,
    machine: Given,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Default: where the run would have written.", group=FILES)
    ] = None,
    json: Json = False,
) -> None:
    """Finish an interrupted run, with exactly the pixels that it would have had."""
    state, meta = load_state(checkpoint)
    if "recipe" not in meta:
        raise ValueError(f"{checkpoint} is a state without a recipe: it was not saved by `sigmafield sample`")
    recipe = Recipe.from_json(meta["recipe"])
    asked = [Asked(recipe, output or Path(meta["output"]))]
    report(asked, MachineOptions(**machine), as_json=json, state=state)
