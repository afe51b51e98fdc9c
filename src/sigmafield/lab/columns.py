"""Labels of a table's columns, with units, for axes, reports and sheets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Args:
        label: A few words with the unit, as on an axis.
        about: One sentence that defines it; "" where the label says all.
    """

    label: str
    about: str = ""


NFE = Column("network calls", "evaluations of the model")
"""The column `nfe`, which all experiments have."""

VARIED: Mapping[str, Column] = {
    "sampler": Column("sampler"),
    "schedule": Column("schedule"),
    "steps": Column("steps"),
    "seed": Column("seed"),
    "prompt": Column("prompt"),
    "cfg": Column("guidance scale (cfg)"),
    "mods": Column("guidance mods"),
    "eta": Column("η, share of noise"),
    "s_noise": Column("factor on the noise (s_noise)"),
    "way": Column("way"),
    "order": Column("order"),
    "pid": Column("gains P/I/D"),
    "rtol": Column("relative tolerance"),
    "atol": Column("absolute tolerance"),
    "denoise": Column("denoising strength"),
}
"""Labels of columns that vary. A field of a recipe that is not here is its own label."""


def label_of(name: str, columns: Mapping[str, Column] = {}) -> str:
    """The label of a column.

    Args:
        name: Its name in the table.
        columns: Those that an experiment declares; they precede `VARIED`.
    """
    known = columns.get(name) or VARIED.get(name)
    return known.label if known else name.replace("_", " ")
