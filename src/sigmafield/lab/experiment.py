"""An experiment as a value: what varies, what is held, what is measured, and with which seeds."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from sigmafield.cluster.pool import each
from sigmafield.core.registry import shown
from sigmafield.lab.bench import Bench
from sigmafield.lab.columns import Column
from sigmafield.lab.rows import Key, Row, RowFile
from sigmafield.recipes.recipe import Recipe, with_entries
from sigmafield.runs.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from polars import DataFrame

Value = float | int | str | bool | list[float] | bytes
"""What a column of the table holds; bytes are those of a PNG, whose name the column has then."""


@dataclass(frozen=True)
class Arm:
    """One setting of what varies.

    Args:
        labels: Its columns of the table, which identify it.
        recipe: What is run; its seed is replaced by those of the experiment.
    """

    labels: Mapping[str, str | int | float]
    recipe: Recipe


Measure = Callable[[Bench, Arm], Mapping[str, Value]]
"""What is done for a row: it opens the recipe of an arm on a bench, runs it, and gives the measured columns. An
importable function, or a value of an importable class, so that it can be sent to workers."""


@dataclass(frozen=True)
class Shown:
    """A figure with what it shows.

    Args:
        caption: One or two sentences.
        figure: The figure.
    """

    caption: str
    figure: Figure | Image


@dataclass(frozen=True)
class Reading:
    """What a table shows.

    Args:
        findings: Sentences, each with its interval.
        figures: Figures by the name of their file.
        tables: Tables for the report by their titles.
    """

    findings: Sequence[str]
    figures: Mapping[str, Shown]
    tables: Mapping[str, DataFrame]


@dataclass(frozen=True)
class Experiment:
    """A question with the runs that answer it.

    Args:
        name: Its name, as on the command line.
        question: What is asked.
        settings: What is held, and the lists that vary, as JSON holds them: they identify the experiment.
        arms: What varies.
        seeds: Seeds of each arm: the same in all, so that arms are compared in pairs.
        measure: What is done for a row.
        measured: What the measured columns are called, with units, and how they are defined.
        read: Findings and figures of the whole table.
        cannot: What the experiment cannot show.
    """

    name: str
    question: str
    settings: Mapping[str, Any]
    arms: Sequence[Arm]
    seeds: Sequence[int]
    measure: Measure
    measured: Mapping[str, Column]
    read: Callable[[DataFrame], Reading]
    cannot: Sequence[str]

    def __post_init__(self) -> None:
        keys = [json.dumps(dict(arm.labels), sort_keys=True) for arm in self.arms]
        if not keys or len(set(keys)) != len(keys):
            twice = next((key for key in keys if keys.count(key) > 1), "none")
            raise ValueError(f"an experiment needs arms that differ in their labels; got {len(keys)}, twice: {twice}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"an experiment needs different seeds; got {list(self.seeds)}")

    def cells(self) -> Iterator[tuple[Key, Arm]]:
        """The rows that are to be measured, seed by seed, so that every prefix of the table is paired."""
        for seed in self.seeds:
            for k, arm in enumerate(self.arms):
                yield (k, seed), Arm(arm.labels, with_entries(arm.recipe, seed=seed))

    def row(self, bench: Bench, key: Key, arm: Arm) -> Row:
        """Measure one row."""
        return _measured(self.measure, bench, key, arm)

    def run(self, folder: Path, on: str | None = None) -> Generator[Row, None, None]:
        """Measure the rows that a folder does not have yet, each of which is written as soon as it is there.

        The iterator may be closed at any row; the next run in the same folder goes on from there.

        Args:
            folder: Where `experiment.json` and `rows.jsonl` are; it is made if it does not exist.
            on: Address of a Ray cluster whose workers measure, see `cluster.joined`; None measures here.

        Raises:
            ValueError: The folder has rows of another experiment, or a damaged row; or another process measures in it.
            OSError: The folder cannot be written to, or a row has taken several workers with it.
        """
        self.claim(folder)
        with _held(folder), RowFile(folder / "rows.jsonl") as rows:
            todo = [(key, arm) for key, arm in self.cells() if key not in rows.known]
            known = {key for key, _ in self.cells()}
            if strange := [key for key in rows.known if key not in known]:
                raise ValueError(
                    f"{folder / 'rows.jsonl'} has a row of arm {strange[0][0]} and seed {strange[0][1]}, "
                    "which this experiment does not have"
                )
            yield from rows.known.values()
            if on is None:
                bench = Bench()
                for key, arm in todo:
                    yield rows.add(_filed(self.row(bench, key, arm), folder))
                return
            with closing(each(_Worker(self.measure), todo, on)) as reports:
                for report in reports:
                    if report.error is not None:
                        raise report.error
                    if report.died:
                        key, arm = report.item
                        warnings.warn(f"a worker died: {_named(arm)}, seed {key[1]}, is measured again", stacklevel=2)
                    if report.ended and report.value is not None:
                        yield rows.add(_filed(report.value, folder))

    def claim(self, folder: Path) -> None:
        """Write what the experiment is into a folder, in place of another one of which no row has been measured.

        Raises:
            ValueError: The folder has rows of another experiment, or it is not a folder.
        """
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; an experiment needs a folder")
        folder.mkdir(parents=True, exist_ok=True)
        path, rows = folder / "experiment.json", folder / "rows.jsonl"
        own = json.loads(json.dumps({"name": self.name, **self.settings}))
        there = asked_in(folder) if rows.exists() and rows.stat().st_size else None
        if there is None:
            write_whole(path, (json.dumps(own, ensure_ascii=False) + "\n").encode())
        elif there != own:
            differ = (name for name in {**there, **own} if there.get(name) != own.get(name))
            what = ", ".join(f"{name} {shown(there.get(name))} there, {shown(own.get(name))} here" for name in differ)
            raise ValueError(f"{folder} has rows of another experiment ({what}): give another folder")


@contextmanager
def _held(folder: Path) -> Generator[None, None, None]:
    """Keep other processes from measuring the same rows."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(f"another process measures in {folder}: wait for it, or give another folder") from None


def asked_in(folder: Path) -> dict[str, Any]:
    """The object in a folder's `experiment.json`.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    path = folder / "experiment.json"
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is not the folder of an experiment: it has no experiment.json") from None
    except (NotADirectoryError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold an object; it holds {shown(found)}")
    return found


def _named(arm: Arm) -> str:
    return ", ".join(f"{name} {value}" for name, value in arm.labels.items())


def _filed(row: Row, folder: Path) -> Row:
    """The row with its images written into files, and their names in place of them."""
    values = dict(row.values)
    for name, value in row.values.items():
        if isinstance(value, bytes):
            path = folder / "images" / f"{row.key[0]:04}-{row.key[1]}-{name}.png"
            path.parent.mkdir(exist_ok=True)
            write_whole(path, value)
            values[name] = path.relative_to(folder).as_posix()
    return replace(row, values=values)


def _measured(measure: Measure, bench: Bench, key: Key, arm: Arm) -> Row:
    began = time.perf_counter()
    values = measure(bench, arm)
    return Row(key, dict(arm.labels), arm.recipe.to_plain(), dict(values), time.perf_counter() - began)


class _Worker:
    """What a worker of a cluster does: it measures rows, and keeps its bench from one to the next."""

    def __init__(self, measure: Measure):
        self._measure = measure
        self._bench: Bench | None = None

    def __call__(self, item: tuple[Key, Arm], saved: bytes | None) -> Iterator[tuple[Row, bytes | None]]:
        """Measure a row; nothing is saved on the way, so that a dead worker's row is measured again."""
        self._bench = self._bench or Bench()
        yield _measured(self._measure, self._bench, *item), None
