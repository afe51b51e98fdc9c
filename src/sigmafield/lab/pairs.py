"""Two arms of a table, seed by seed: how far they differ, and by which factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sigmafield.core.registry import near_miss, shown
from sigmafield.lab.drawing import distinct, rows_of, shortest, values
from sigmafield.lab.statistics import Interval, difference, interval, ratio
from sigmafield.lab.subject import names_in

if TYPE_CHECKING:
    from polars import DataFrame


@dataclass(frozen=True)
class Pair:
    """A column of two arms.

    Args:
        a: Mean of the first.
        b: Mean of the second.
        difference: Mean of a − b over the seeds of both.
        ratio: Geometric mean of a/b over the seeds of both; None where a value is not above 0.
    """

    a: Interval
    b: Interval
    difference: Interval
    ratio: Interval | None


def rows_named(table: DataFrame, text: str) -> DataFrame:
    """The rows of one arm, which a text such as "sampler=euler,steps=20" names.

    Args:
        table: The table of an experiment.
        text: COLUMN=VALUE, separated by commas, for enough columns to leave one row per seed.

    Raises:
        ValueError: The text has another form, a column or value does not exist, or a seed has several rows.
    """
    rows = table
    for part in names_in("an arm", text):
        name, equals, value = part.partition("=")
        if not equals or name not in table.columns:
            raise ValueError(
                f"an arm must be COLUMN=VALUE,COLUMN=VALUE,… with columns of the table; got {shown(part)}"
                f"{near_miss(name, table.columns)}"
            )
        there = {shortest(each): each for each in distinct(rows, name)}
        known = there.get(value, there.get(_plain(value)))
        if known is None:
            raise ValueError(f"no row has {part}; with what is before it, {name} is {', '.join(there)}")
        rows = rows_of(rows, **{name: known})
    if len(rows) != len(distinct(rows, "seed")):
        columns = table.columns[: table.columns.index("seed")]
        free = [name for name in columns if len(distinct(rows, name)) > 1]
        raise ValueError(f"{shown(text)} is several arms: add a value of {' and '.join(free)}")
    return rows


def pair(table: DataFrame, column: str, a: str, b: str) -> Pair:
    """A column of two arms of a table, compared seed by seed.

    Args:
        table: The table of an experiment.
        column: A measured column of numbers.
        a: The first arm, see `rows_named`.
        b: The second arm.

    Raises:
        ValueError: The column or an arm does not exist, or the arms share no seed.
    """
    if column not in table.columns or not table[column].dtype.is_numeric():
        numbers = [name for name in table.columns if table[name].dtype.is_numeric()]
        raise ValueError(f"the table has no column of numbers {shown(column)}{near_miss(column, numbers)}")
    rows = [rows_named(table, text) for text in (a, b)]
    both = set(rows[0]["seed"].to_list()) & set(rows[1]["seed"].to_list())
    if not both:
        raise ValueError(f"{shown(a)} and {shown(b)} have no seed in common")
    one, other = (values(each.filter(each["seed"].is_in(sorted(both))), column) for each in rows)
    positive = bool((one > 0).all() and (other > 0).all())
    return Pair(interval(one), interval(other), difference(one, other), ratio(one, other) if positive else None)


def _plain(value: str) -> str:
    """A number as a table's are compared: "3.0" is "3"."""
    try:
        return shortest(float(value))
    except ValueError:
        return value
