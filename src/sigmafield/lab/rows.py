"""The rows of an experiment: one per run, appended to a file line by line, and as a table for polars."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from sigmafield.runs.files import write_whole

if TYPE_CHECKING:
    from polars import DataFrame

Key = tuple[int, int]
"""(index of the arm, seed): what identifies a row."""


@dataclass(frozen=True)
class Row:
    """One run.

    Args:
        key: Arm and seed.
        labels: The columns of the arm.
        recipe: The recipe that replays it, as JSON holds it.
        values: What was measured.
        seconds: What it took, on the machine that measured it.
    """

    key: Key
    labels: Mapping[str, Any]
    recipe: Mapping[str, Any]
    values: Mapping[str, Any]
    seconds: float

    def line(self) -> bytes:
        """The row as one line of JSON; numbers that are not finite are written as Python writes them."""
        entries = {"arm": self.key[0], "seed": self.key[1], "labels": dict(self.labels), "values": dict(self.values)}
        text = json.dumps({**entries, "seconds": self.seconds, "recipe": dict(self.recipe)}, ensure_ascii=False)
        return text.encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Row:
        """The row of a line; ValueError for anything else."""
        try:
            entries = json.loads(line)
            key = int(entries["arm"]), int(entries["seed"])
            return cls(key, entries["labels"], entries["recipe"], entries["values"], float(entries["seconds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a row of an experiment: {line[:80]!r}") from error


class RowFile:
    """A file of rows. As a context manager it can be appended to; a last line that a crash has cut off is removed then.

    Args:
        path: The file.

    Raises:
        ValueError: A line is not a row.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path):
        data = path.read_bytes() if path.exists() else b""
        self._path, self._whole = path, data.rfind(b"\n") + 1
        self.known: dict[Key, Row] = {}
        for n, line in enumerate(data[: self._whole].split(b"\n")[:-1], 1):
            try:
                row = Row.read(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {n}: {error}; without this line, its row is measured again") from error
            self.known[row.key] = row
        self._file: BinaryIO | None = None

    def __enter__(self) -> RowFile:
        self._file = open(self._path, "ab")
        self._file.truncate(self._whole)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        assert self._file is not None
        self._file.close()

    def add(self, row: Row) -> Row:
        """Append a row, which is on disk then."""
        assert self._file is not None
        self._file.write(row.line())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.known[row.key] = row
        return row


def frame(rows: Iterable[Row]) -> DataFrame:
    """The table: arm by arm, then by seed, with the columns of the arm, of what was measured, seconds and recipe.

    Raises:
        ImportError: polars is not installed.
    """
    try:
        import polars
    except ImportError as error:
        raise ImportError('tables need polars: pip install "sigmafield[lab]"') from error
    ordered = sorted(rows, key=lambda row: row.key)
    records = [
        {**row.labels, "seed": row.key[1], **row.values, "seconds": row.seconds, "recipe": json.dumps(dict(row.recipe))}
        for row in ordered
    ]
    return polars.DataFrame(records, infer_schema_length=None, strict=False)


def write_tables(table: DataFrame, folder: Path) -> None:
    """Write table.csv, in which lists are JSON, and table.parquet, each whole or not at all."""
    import io

    import polars

    data = io.BytesIO()
    table.write_parquet(data)
    write_whole(folder / "table.parquet", data.getvalue())
    lists = [name for name, kind in table.schema.items() if isinstance(kind, polars.List)]
    plain = table.with_columns(
        polars.Series(name, [json.dumps(value.to_list()) for value in table[name]]) for name in lists
    )
    write_whole(folder / "table.csv", plain.write_csv().encode())
