"""What Comfy API v2 keeps: assets, labels of jobs, and keys of requests; in a file that outlasts the server."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS assets (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, kind TEXT NOT NULL, file_path TEXT NOT NULL, path TEXT NOT NULL,
    hash TEXT NOT NULL, size INTEGER NOT NULL, changed INTEGER NOT NULL, content_type TEXT NOT NULL,
    created REAL NOT NULL, job TEXT, node TEXT
), WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS hashes ON assets (owner, hash);
CREATE INDEX IF NOT EXISTS of_job ON assets (job, created);
CREATE TABLE IF NOT EXISTS labels (job TEXT PRIMARY KEY, labels TEXT NOT NULL), WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (owner TEXT NOT NULL, key TEXT NOT NULL, time REAL NOT NULL, PRIMARY KEY (owner, key));
"""

KEPT_KEYS = 24 * 3600.0
"""Seconds for which a key cannot be used again."""


@dataclass(frozen=True)
class Asset:
    """A file that clients know by an id.

    Args:
        id: Its id.
        owner: Whose it is.
        kind: "input", "output", "temp", "text" or a kind of models.
        file_path: Its name for clients: below its folder, with "input/" or "models/KIND/" where it is in another one.
        path: Where it is.
        hash: Its digest.
        size: Bytes.
        changed: When it was last written, in ns: a file that was written since is another one.
        content_type: Its media type.
        created: When the asset was made, seconds since 1970.
        job: The job that has made the file; None for an upload.
        node: The node that has.
    """

    id: str
    owner: str
    kind: str
    file_path: str
    path: str
    hash: str
    size: int
    changed: int
    content_type: str
    created: float
    job: str | None = None
    node: str | None = None

    @property
    def there(self) -> bool:
        """Whether the file is still what it was."""
        try:
            at = Path(self.path).stat()
        except OSError:
            return False
        return at.st_size == self.size and at.st_mtime_ns == self.changed


COLUMNS = ", ".join(field.name for field in fields(Asset))


class Records:
    """The records in a file; any thread may call any method.

    Args:
        path: The SQLite file, made if it does not exist.
    """

    def __init__(self, path: Path):
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA busy_timeout=10000; {SCHEMA}")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _rows(self, query: str, values: Collection[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, tuple(values)).fetchall()

    def add(self, asset: Asset) -> Asset:
        """Keep an asset; the one of its id that is there already, if there is one."""
        marks = ", ".join("?" * len(fields(Asset)))
        with self._lock:
            self._rows(f"INSERT OR IGNORE INTO assets ({COLUMNS}) VALUES ({marks})", list(vars(asset).values()))
            return self.asset(asset.id, asset.owner)

    def asset(self, id: str, owner: str) -> Asset:
        """An asset of an owner. LookupError if there is none."""
        rows = self._rows(f"SELECT {COLUMNS} FROM assets WHERE id = ? AND owner = ?", (id, owner))
        if not rows:
            raise LookupError(f"no asset {id}")
        return Asset(**dict(rows[0]))

    def with_hash(self, hash: str, owner: str) -> list[Asset]:
        """An owner's assets of a digest whose files are still there, uploads first."""
        query = f"SELECT {COLUMNS} FROM assets WHERE hash = ? AND owner = ? ORDER BY job IS NOT NULL, created"
        found = (Asset(**dict(row)) for row in self._rows(query, (hash.lower(), owner)))
        return [asset for asset in found if asset.there]

    def of_job(self, job: str) -> list[Asset]:
        """What a job has made, in the order in which it was found."""
        return [
            Asset(**dict(row))
            for row in self._rows(f"SELECT {COLUMNS} FROM assets WHERE job = ? ORDER BY created, id", (job,))
        ]

    def remove(self, id: str) -> None:
        """Forget an asset; its file stays."""
        self._rows("DELETE FROM assets WHERE id = ?", (id,))

    def claim(self, owner: str, key: str) -> bool:
        """Note that a key is used; False if it was used before."""
        with self._lock:
            self._rows("DELETE FROM keys WHERE time < ?", (time.time() - KEPT_KEYS,))
            made = self._db.execute(
                "INSERT OR IGNORE INTO keys (owner, key, time) VALUES (?, ?, ?)", (owner, key, time.time())
            )
            return made.rowcount == 1

    def release(self, owner: str, key: str) -> None:
        """Let a key be used again: its request made no job."""
        self._rows("DELETE FROM keys WHERE owner = ? AND key = ?", (owner, key))

    def label(self, job: str, labels: Any) -> None:
        """Keep what a client says of a job: a text, or texts by name."""
        self._rows("INSERT OR REPLACE INTO labels (job, labels) VALUES (?, ?)", (job, json.dumps(labels)))

    def labels(self, job: str) -> Any:
        """What a client has said of a job; None if nothing."""
        rows = self._rows("SELECT labels FROM labels WHERE job = ?", (job,))
        return json.loads(rows[0]["labels"]) if rows else None
