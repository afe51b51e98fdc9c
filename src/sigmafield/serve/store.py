"""Jobs and events on disk: one SQLite file in WAL mode, in which each change of a job is one transaction.

A change says which statuses it goes from, so that of two threads that change a job at the same time one does and the
other learns that it came too late. An event is in the transaction of the change that it tells of.
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from sigmafield.serve.jobs import FINISHED, STATUSES, Event, Happening, JobRecord, Status
from sigmafield.serve.tables import COLUMNS, SCHEMA, VERSION, column, job_of_row

PER_OPENING = 10**9
"""Event ids that one opening of the store has: the next one's are larger."""


class Store:
    """The jobs in a file; any thread may call any method.

    Args:
        path: The SQLite file, made if it does not exist.
        notify: Called with a job's id after an event of it was recorded, from the thread that recorded it.

    Raises:
        ValueError: The file is not a store of this version.
    """

    def __init__(self, path: Path, notify: Callable[[str], None]):
        self._lock = threading.RLock()
        self._notify = notify
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._open(path)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ValueError(f"{path} is not a store of jobs: {error}") from None

    def _open(self, path: Path) -> None:
        self._db.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "busy_timeout=10000"):
            self._db.execute(f"PRAGMA {pragma}")
        found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if found not in (0, VERSION):
            raise ValueError(f"{path} is of version {found}, and this sigmafield reads version {VERSION}")
        self._db.executescript(f"{SCHEMA} PRAGMA user_version = {VERSION};")
        opening = cast(int, self._db.execute("INSERT INTO openings DEFAULT VALUES").lastrowid)
        self._last = opening * PER_OPENING

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self, synced: bool = False) -> Iterator[None]:
        """Changes that are made together or not at all.

        Args:
            synced: Whether they outlast a power cut once they are made; all outlast the end of the process.
        """
        with self._lock:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite ends it itself where the disk is full
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, values: Collection[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, tuple(values)).fetchall()

    def event(self, job: str, kind: Happening, data: Mapping[str, Any]) -> Event:
        """An event that happens now, with the next id; it is not recorded."""
        with self._lock:
            self._last += 1
            return Event(self._last, job, kind, time.time(), data)

    def _record(self, job: str, kind: Happening, data: Mapping[str, Any]) -> None:
        event = self.event(job, kind, data)
        row = (job, event.id, kind, event.time, json.dumps(data))
        self._db.execute("INSERT INTO events (job, id, kind, time, data) VALUES (?, ?, ?, ?, ?)", row)

    def add(self, record: JobRecord, digest: str, allow: Callable[[], None] | None = None) -> JobRecord | None:
        """Add a queued job with its first event.

        Args:
            record: The job.
            digest: Of its request as it was submitted, which tells a repeated submission from another one.
            allow: Called in the transaction; what it raises prevents the job.

        Raises:
            ValueError: There is a job with its id.

        Returns:
            The job that has the same owner and key, which is then not added; None if the job was added.
        """
        with self._transaction(synced=True):
            if record.key is not None and (found := self._by_key(record.owner, record.key)) is not None:
                return found
            if self._rows("SELECT id FROM jobs WHERE id = ?", (record.id,)):
                raise ValueError(f"there is a job {record.id} already")
            if allow is not None:
                allow()
            row = {field.name: column(field.name, getattr(record, field.name)) for field in fields(record)}
            row["digest"] = digest
            query = f"INSERT INTO jobs ({', '.join(row)}) VALUES ({marks(row)})"
            number = self._db.execute(query, tuple(row.values())).lastrowid
            front = record.place is not None and record.place == -math.inf
            if record.place is None or front:
                place = -cast(int, number) if front else number
                self._db.execute("UPDATE jobs SET place = ? WHERE number = ?", (place, number))
            self._record(record.id, "queued", {})
        self._notify(record.id)
        return None

    def _by_key(self, owner: str, key: str) -> JobRecord | None:
        rows = self._rows(f"SELECT {COLUMNS} FROM jobs WHERE owner = ? AND key = ?", (owner, key))
        return job_of_row(rows[0]) if rows else None

    def digest(self, id: str) -> str:
        """The digest of a job's request as it was submitted."""
        return str(self._rows("SELECT digest FROM jobs WHERE id = ?", (id,))[0]["digest"])

    def get(self, id: str) -> JobRecord:
        """A job. LookupError if it does not exist."""
        rows = self._rows(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (id,))
        if not rows:
            raise LookupError(f"no job {id}")
        return job_of_row(rows[0])

    def list(self, status: Status | None, owner: str | None, limit: int, before: str | None) -> list[JobRecord]:
        """Jobs, the latest first; arguments and errors as for `Engine.list`."""
        where, values = ["1"], list[Any]()
        for name, value in (("status", status), ("owner", owner)):
            if value is not None:
                where.append(f"{name} = ?")
                values.append(value)
        if before is not None:
            self.get(before)
            where.append("number < (SELECT number FROM jobs WHERE id = ?)")
            values.append(before)
        query = f"SELECT {COLUMNS} FROM jobs WHERE {' AND '.join(where)} ORDER BY number DESC LIMIT ?"
        return [job_of_row(row) for row in self._rows(query, [*values, limit])]

    def posted(
        self, owner: str, statuses: Collection[Status], limit: int, offset: int, latest: bool
    ) -> list[JobRecord]:
        """Jobs that came over ComfyUI's protocol; those without a place in its history are left out.

        Args:
            owner: Whose.
            statuses: Those with one of these.
            limit: How many at most; -1 is all.
            offset: How many are skipped.
            latest: Whether the latest is first, else the oldest.
        """
        query = f"SELECT {COLUMNS} FROM jobs WHERE {_posted(statuses)} ORDER BY number {'DESC' if latest else 'ASC'}"
        return [job_of_row(row) for row in self._rows(f"{query} LIMIT ? OFFSET ?", [owner, *statuses, limit, offset])]

    def count_posted(self, owner: str, statuses: Collection[Status]) -> int:
        """Number of jobs that `posted` gives."""
        return int(self._rows(f"SELECT count(*) AS n FROM jobs WHERE {_posted(statuses)}", [owner, *statuses])[0]["n"])

    def counts(self, owner: str | None = None) -> dict[Status, int]:
        """Number of jobs by status, of one owner or of all."""
        where, values = ("", ()) if owner is None else (" WHERE owner = ?", (owner,))
        found = dict(map(tuple, self._rows(f"SELECT status, count(*) FROM jobs{where} GROUP BY status", values)))
        return {status: int(found.get(status, 0)) for status in STATUSES}

    def next_queued(self, but: Collection[str]) -> JobRecord | None:
        """The job that should run next, other than some: that of the highest priority, of these the first by place."""
        query = f"SELECT {COLUMNS} FROM jobs WHERE status = 'queued' AND id NOT IN ({marks(but)})"
        rows = self._rows(f"{query} ORDER BY priority DESC, place, number LIMIT 1", tuple(but))
        return job_of_row(rows[0]) if rows else None

    def change(
        self, id: str, since: Collection[Status], kind: Happening | None = None, data: Mapping[str, Any] = {}, **to: Any
    ) -> JobRecord | None:
        """Change a job that has one of some statuses.

        Args:
            id: The job.
            since: The statuses.
            kind: What has happened, for the event; None records none.
            data: What the event says.
            to: The fields' new values.

        Returns:
            The job as it is then; None if it does not exist, or its status is another.
        """
        values = [column(name, value) for name, value in to.items()]
        sets = ", ".join(f"{name} = ?" for name in to)
        query = f"UPDATE jobs SET {sets} WHERE id = ? AND status IN ({marks(since)}) RETURNING {COLUMNS}"
        with self._transaction():
            rows = self._rows(query, [*values, id, *since])
            if rows and kind is not None:
                self._record(id, kind, data)
        if rows and kind is not None:
            self._notify(id)
        return job_of_row(rows[0]) if rows else None

    def recover(self, alive: Collection[str], most: int) -> list[str]:
        """Queue the jobs that are running and have no thread: the process, or the thread, ended without a word.

        Args:
            alive: Jobs that have a thread.
            most: How often that may happen to a job without a saved state in between.

        Returns:
            The jobs to which it has happened more often.
        """
        lost = f"status = 'running' AND id NOT IN ({marks(alive)})"
        with self._transaction():
            self._db.execute(f"UPDATE jobs SET status = 'queued', crashes = crashes + 1 WHERE {lost}", tuple(alive))
            rows = self._rows("SELECT id FROM jobs WHERE status = 'queued' AND crashes > ?", (most,))
        return [str(row["id"]) for row in rows]

    def crashes(self, id: str) -> int:
        """How often the process or the thread has ended while a job ran, since its last saved state."""
        return sum(int(row["crashes"]) for row in self._rows("SELECT crashes FROM jobs WHERE id = ?", (id,)))

    def events(self, job: str, after: int) -> list[Event]:
        """The events of a job that are recorded, those after an id."""
        rows = self._rows("SELECT * FROM events WHERE job = ? AND id > ? ORDER BY id", (job, after))
        return [Event(row["id"], job, row["kind"], row["time"], json.loads(row["data"])) for row in rows]

    def old(self, ended: float | None, most: int | None) -> list[str]:
        """Finished jobs that ended before a time, or are more than `most`, the oldest first."""
        query = f"SELECT id, ended FROM jobs WHERE status IN ({marks(FINISHED)}) ORDER BY ended DESC, number DESC"
        rows = self._rows(query, FINISHED)
        late = [row for k, row in enumerate(rows) if (most is not None and k >= most) or row["ended"] < (ended or 0)]
        return [str(row["id"]) for row in reversed(late)]

    def ids(self) -> set[str]:
        """All jobs."""
        return {str(row["id"]) for row in self._rows("SELECT id FROM jobs")}

    def delete(self, id: str, since: Collection[Status]) -> bool:
        """Delete a job that has one of some statuses, with its events; False if it has another or does not exist."""
        query = f"DELETE FROM jobs WHERE id = ? AND status IN ({marks(since)}) RETURNING id"
        with self._transaction():
            rows = self._rows(query, [id, *since])
            if rows:
                self._db.execute("DELETE FROM events WHERE job = ?", (id,))
        return bool(rows)


def _posted(statuses: Collection[Status]) -> str:
    return (
        f"client IS NOT NULL AND owner = ? AND status IN ({marks(statuses)}) "
        "AND (status != 'cancelled' OR shown IS NOT NULL)"  # one that was taken out of the queue has no history
    )


def marks(values: Collection[Any]) -> str:
    """As many question marks as there are values, for a query."""
    return ", ".join("?" * len(values))
