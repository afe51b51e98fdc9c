"""`sigmafield lab pair`: two arms of an experiment, seed by seed."""

from __future__ import annotations

import dataclasses
import json as json_
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigmafield.cli.flags import with_flags
from sigmafield.cli.groups import Json
from sigmafield.lab.pairs import pair as paired
from sigmafield.lab.rows import RowFile, frame


@with_flags()
def pair(
    folder: Annotated[Path, Parameter(help="Folder of an experiment.")],
    column: Annotated[str, Parameter(help="Measured column, such as error.")],
    a: Annotated[str, Parameter(name="A", help="An arm: columns with their values, such as sampler=euler,steps=20.")],
    b: Annotated[str, Parameter(name="B", help="Another one.")],
    /,
    *,
    json: Json = False,
) -> None:
    """Compare two arms of an experiment, seed by seed, with intervals.

    For example:  sigmafield lab pair lab-solvers error sampler=euler,steps=16 sampler=dpmpp_2m,steps=16
    """
    if not (folder / "rows.jsonl").exists():
        raise ValueError(f"{folder} has no rows of an experiment: it has no rows.jsonl")
    found = paired(frame(RowFile(folder / "rows.jsonl").known.values()), column, a, b)
    if json:
        print(json_.dumps(dataclasses.asdict(found), ensure_ascii=False))
        return
    print(f"{column} of {a}: {found.a}")
    print(f"{column} of {b}: {found.b}")
    print(f"difference: {found.difference}")
    if found.ratio is not None:
        print(f"ratio: {found.ratio}")
