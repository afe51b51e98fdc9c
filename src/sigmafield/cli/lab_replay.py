"""`sigmafield lab replay`: one row of a table measured again."""

from __future__ import annotations

import json as json_
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from sigmafield.cli.flags import with_flags
from sigmafield.cli.groups import Json
from sigmafield.lab.bench import Bench
from sigmafield.lab.experiment import asked_in
from sigmafield.lab.rows import RowFile
from sigmafield.lab.studies.registry import experiment_from


@with_flags()
def replay(
    folder: Annotated[Path, Parameter(help="Folder of an experiment.")],
    row: Annotated[int, Parameter(help="Row of its table, from 1.")],
    /,
    *,
    json: Json = False,
) -> None:
    """Measure one row of a table again, and say whether it has the same values; the status is 1 if not.

    Rows of a sweep are images, which `sigmafield replay` draws again.
    """
    experiment = experiment_from(asked_in(folder))
    known = sorted(RowFile(folder / "rows.jsonl").known.values(), key=lambda each: each.key)
    if not 1 <= row <= len(known):
        raise ValueError(f"row must be from 1 to {len(known)}, the rows of {folder}; got {row}")
    before = known[row - 1]
    cells, (arm, seed) = dict(experiment.cells()), before.key
    if before.key not in cells:
        raise ValueError(f"row {row} is of arm {arm} and seed {seed}, which the experiment in {folder} does not have")
    again = experiment.row(Bench(), before.key, cells[before.key])
    differ = {
        name: (value, again.values.get(name))
        for name, value in before.values.items()
        if not isinstance(again.values.get(name), bytes) and not _same(value, again.values.get(name))
    }
    if json:
        print(json_.dumps({"labels": dict(before.labels), "seed": before.key[1], "differ": differ}, ensure_ascii=False))
    else:
        print(", ".join(f"{name} {value}" for name, value in before.labels.items()) + f", seed {before.key[1]}")
        for name, (value, now) in differ.items():
            print(f"{name}: {value} then, {now} now")
        print("the same values" if not differ else f"{len(differ)} of {len(before.values)} values differ")
    if differ:
        sys.exit(1)


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal; NaN is equal to itself."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (a != a and b != b)
    return a == b
