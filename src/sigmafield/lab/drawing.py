"""Columns of an experiment's table by arm, and their means with intervals, as numbers and as lines of a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sigmafield.lab.columns import Column, label_of
from sigmafield.lab.statistics import Interval, interval, ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from polars import DataFrame

MARKERS = "os^Dvp*XhP<>d"
"""Markers of lines, so that figures can be read without colours."""


def values(table: DataFrame, column: str, **labels: Any) -> np.ndarray:
    """A column of the rows with these labels, in the order of their seeds."""
    rows = rows_of(table, **labels).sort("seed")
    return rows[column].to_numpy()


def rows_of(table: DataFrame, **labels: Any) -> DataFrame:
    """The rows with these labels."""
    import polars

    for name, value in labels.items():
        table = table.filter(polars.col(name) == value)
    return table


def distinct(table: DataFrame, column: str) -> list[Any]:
    """The values of a column, in the order of their first row."""
    return table[column].unique(maintain_order=True).to_list()


def mean(table: DataFrame, column: str, **labels: Any) -> Interval:
    """Mean of a column over the seeds of an arm, with its interval."""
    return interval(values(table, column, **labels))


def words_of(arm: Mapping[str, Any]) -> str:
    """An arm in words: "heun, η 0.5, cfg 3". Names say themselves what they are; numbers have their column before."""
    symbols = {"eta": "η", "pid": "P/I/D"}
    return ", ".join(
        value if isinstance(value, str) and name != "pid" else f"{symbols.get(name, name)} {shortest(value)}"
        for name, value in arm.items()
        if value != ""
    )


def shortest(value: Any) -> str:
    """A value without needless zeros: 3.0 is "3"."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_arms(table: DataFrame, by: Sequence[str]) -> DataFrame:
    """The table with a column `arm` that has, of some columns, the values of those that vary in it, in words."""
    import polars

    varied = [name for name in by if len(distinct(table, name)) > 1] or by[:1]
    return table.with_columns(polars.Series("arm", [words_of(arm) for arm in table.select(varied).to_dicts()]))


def least(table: DataFrame, column: str, by: str, where: str) -> list[str]:
    """A sentence that says which value of the column `by` has the least mean, and by which factor the second has more.

    Args:
        table: Rows in which each value of `by` is one arm.
        column: What is compared; numbers above 0.
        by: Column of what is compared.
        where: What all of the rows share, as the beginning of a sentence.
    """
    found = sorted((mean(table, column, **{by: name}).value, name) for name in distinct(table, by))
    if len(found) < 2:
        return []
    (_, best), (_, second) = found[:2]
    factor = ratio(values(table, column, **{by: second}), values(table, column, **{by: best}))
    sure = "" if factor.excludes(1.0) else ", so that the two cannot be told apart"
    return [
        f"{where} {best} has the least {column}, {mean(table, column, **{by: best})}; "
        f"{second} has {factor} times as much{sure}."
    ]


def summary(table: DataFrame, by: Sequence[str], names: Sequence[str], columns: Mapping[str, Column] = {}) -> DataFrame:
    """A table for a report: one row per arm, and each column as "mean [low, high]", below their labels.

    Args:
        table: The whole table.
        by: Columns that identify an arm.
        names: Columns whose means are given.
        columns: What the experiment's columns are called.
    """
    import polars

    arms = table.select(by).unique(maintain_order=True).to_dicts()
    rows = [{**arm, **{name: str(mean(table, name, **arm)) for name in names}} for arm in arms]
    return polars.DataFrame([{label_of(name, columns): value for name, value in row.items()} for row in rows])


def lines(
    axes: Axes,
    table: DataFrame,
    x: str,
    y: str,
    by: str,
    columns: Mapping[str, Column] = {},
) -> None:
    """One line per value of the column `by`: means of y over the seeds at each x, with intervals as bars.

    Args:
        axes: Where they are drawn.
        table: The rows.
        x: Column of numbers.
        y: Column of numbers.
        by: Column whose values are the lines.
        columns: What the experiment's columns are called.
    """
    for k, label in enumerate(distinct(table, by)):
        own = rows_of(table, **{by: label})
        points = [(float(value), mean(own, y, **{x: value})) for value in sorted(distinct(own, x))]
        at, found = [p for p, _ in points], [i for _, i in points]
        below = [max(i.value - i.low, 0) if i.low == i.low else 0 for i in found]
        above = [max(i.high - i.value, 0) if i.high == i.high else 0 for i in found]
        axes.errorbar(
            at, [i.value for i in found], [below, above], marker=MARKERS[k % len(MARKERS)], markersize=4,
            color=f"C{k % 10}", linestyle="-" if k < 10 else "--", linewidth=1, capsize=2, label=str(label),
        )  # fmt: skip
    axes.set(xlabel=label_of(x, columns), ylabel=label_of(y, columns))
    axes.grid(alpha=0.3)


def logarithmic(axes: Axes, ticks: Sequence[float], y: bool = True) -> None:
    """Make the axes logarithmic, with these numbers as the ticks of x.

    Args:
        axes: The axes.
        ticks: Numbers, such as the numbers of steps of the runs.
        y: Whether y is logarithmic as well.
    """
    axes.set(xscale="log", **({"yscale": "log"} if y else {}))
    axes.set_xticks(list(ticks), labels=[f"{tick:g}" for tick in ticks])
    axes.xaxis.minorticks_off()


def octaves(numbers: Sequence[float]) -> list[float]:
    """Powers of two that span some numbers, as the ticks of a logarithmic axis."""
    low, high = np.log2(min(numbers)), np.log2(max(numbers))
    return [2.0**k for k in range(int(np.floor(low + 1e-9)), int(np.ceil(high - 1e-9)) + 1)]
