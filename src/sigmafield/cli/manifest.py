"""What has become of the lines of a batch: a file in its folder that the same command goes on from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from sigmafield.core.plain import from_plain
from sigmafield.recipes.image_io import digest
from sigmafield.runs.files import make_folder, remove_temporaries

Status = Literal["writing", "written", "failed"]


@dataclass(frozen=True)
class Entry:
    """What has become of a line.

    Args:
        line: Its number in the file of prompts, from 1.
        status: writing, just before its files get their names; written; or failed.
        recipe: Its recipe, with the digests of its files; None for a line that is not one.
        files: Names of its files in the folder.
        sha256: Their digests.
        error: Why it failed.
    """

    line: int
    status: Status
    recipe: Mapping[str, Any] | None = None
    files: Sequence[str] = ()
    sha256: Sequence[str] = ()
    error: str | None = None


class Manifest:
    """The entries of a batch, a line of JSON each; the last one of a line counts.

    Only one process at a time may use it. It is entered as a context.

    Args:
        folder: Folder of the batch, which is made if it does not exist.
        prompts: The file of prompts, after which the manifest is named.

    Raises:
        OSError: The folder cannot be made; when entered, it cannot be written to, or another process uses the manifest.
    """

    def __init__(self, folder: Path, prompts: Path):
        make_folder(folder)
        self.folder = folder
        self.owner = "stdin" if str(prompts) == "-" else prompts.name
        self.path = folder / f"{self.owner}.manifest.jsonl"
        self._lock = FileLock(folder / f".{self.owner}.lock", timeout=0)
        self._entries: dict[int, Entry] = {}

    def __enter__(self) -> Manifest:
        try:
            self._lock.acquire()
        except Timeout:
            raise OSError(f"another process works on this batch: {self.path}") from None
        except OSError as error:
            raise OSError(f"cannot write in {self.folder}: {error.strerror or error}") from None
        remove_temporaries(self.folder, self.owner)
        self._entries = {entry.line: entry for entry in self._read()}
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _read(self) -> list[Entry]:
        """The entries of the file; a line that a kill or a full disk has torn is not one."""
        entries = []
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                try:
                    entries.append(from_plain(Entry, json.loads(line), "an entry"))
                except ValueError:
                    continue
        return entries

    def add(self, entry: Entry) -> None:
        """Append an entry; it is on disk when this returns."""
        data = (json.dumps(asdict(entry), ensure_ascii=False) + "\n").encode()
        with open(self.path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                data = data if file.read(1) == b"\n" else b"\n" + data  # after a torn line
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._entries[entry.line] = entry

    def seed(self, line: int, recipe: Mapping[str, Any]) -> int:
        """The seed that a line was drawn with before, from a recipe that is the same apart from it; else its own."""
        entry = self._entries.get(line)
        before = {} if entry is None or entry.recipe is None else entry.recipe
        own = int(recipe["seed"])
        return int(before["seed"]) if before and {**before, "seed": own} == recipe else own

    def written(self, line: int, recipe: Mapping[str, Any]) -> list[Path]:
        """The files of a line that has been written from this recipe, if they are all there; else none.

        Where the program ended while the files got their names, the complete ones count, and parts are removed.
        """
        entry = self._entries.get(line)
        if entry is None or entry.recipe != recipe or not entry.files:
            return []
        files = [self.folder / name for name in entry.files]
        if entry.status == "written":
            return files if all(file.is_file() for file in files) else []
        ours = [
            file for file, known in zip(files, entry.sha256) if file.is_file() and digest(file.read_bytes()) == known
        ]
        if len(ours) == len(files):
            self.add(Entry(line, "written", recipe, entry.files, entry.sha256))
            return files
        for file in ours:
            file.unlink()
        return []
