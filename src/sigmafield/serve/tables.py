"""The tables of a store of jobs, and a job as a row of them."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import fields
from typing import Any

from sigmafield.core.plain import to_plain
from sigmafield.serve.jobs import JobRecord, Output

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, request TEXT NOT NULL,
    status TEXT NOT NULL, priority INTEGER NOT NULL, owner TEXT NOT NULL, created REAL NOT NULL, started REAL,
    ended REAL, step INTEGER NOT NULL, steps INTEGER NOT NULL, progress REAL NOT NULL, label TEXT NOT NULL,
    outputs TEXT NOT NULL, error TEXT, cloned_from TEXT, key TEXT, webhook TEXT, place REAL, client TEXT, shown TEXT,
    digest TEXT NOT NULL,
    crashes INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX IF NOT EXISTS keys ON jobs (owner, key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS waiting ON jobs (status, priority DESC, place, number);
CREATE INDEX IF NOT EXISTS posted ON jobs (client, number) WHERE client IS NOT NULL;
CREATE TABLE IF NOT EXISTS events (
    job TEXT NOT NULL, id INTEGER NOT NULL, kind TEXT NOT NULL, time REAL NOT NULL, data TEXT NOT NULL,
    PRIMARY KEY (job, id)
), WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS openings (number INTEGER PRIMARY KEY AUTOINCREMENT);
"""

VERSION = 2
"""Of the tables; a file of another version is refused."""

COLUMNS = ", ".join(field.name for field in fields(JobRecord))
"""Those of a job's record, in its order."""

AS_JSON = ("request", "outputs", "shown")
"""Columns that hold JSON."""


def column(name: str, value: Any) -> Any:
    """A field of a job as its column holds it."""
    return json.dumps(to_plain(value)) if name in AS_JSON and value is not None else value


def job_of_row(row: sqlite3.Row) -> JobRecord:
    """A job of a row with `COLUMNS`."""
    values = dict(row)
    outputs = tuple(Output(**each) for each in json.loads(values["outputs"]))
    read = {name: value if value is None else json.loads(value) for name, value in values.items() if name in AS_JSON}
    return JobRecord(**{**values, **read, "outputs": outputs})
