"""The files of jobs: states from which one can go on, and outputs; each is written whole or not at all."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Mapping, Sequence
from hashlib import sha256
from mimetypes import guess_type
from pathlib import Path

from filelock import FileLock, Timeout
from PIL import Image

from sigmafield.runs.files import write_whole
from sigmafield.serve.jobs import Output

STATE = re.compile(r"state-(\d+)\.safetensors")


class JobFiles:
    """The folder of one job.

    Args:
        root: Folder of all jobs.
        id: The job.
    """

    def __init__(self, root: Path, id: str):
        self.folder = root / id
        self.outputs = self.folder / "outputs"

    def states(self) -> dict[int, Path]:
        """The saved states by the number of steps that were done, ascending."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        steps = {int(match[1]): path for path in found if (match := STATE.fullmatch(path.name))}
        return dict(sorted(steps.items()))

    def state(self, step: int) -> Path:
        """Where the state after some steps is saved."""
        return self.folder / f"state-{step:06}.safetensors"

    def save_state(self, step: int, data: bytes, keep: int) -> None:
        """Save a state, and remove the oldest beyond those that are kept; OSError leaves what was there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.state(step), data)
        for path in list(self.states().values())[:-keep]:
            path.unlink(missing_ok=True)

    def save_outputs(self, files: Mapping[str, bytes]) -> None:
        """Write the outputs by their names; those of an earlier attempt are replaced."""
        self.outputs.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (self.outputs / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.outputs / name, data)

    def written(self) -> dict[str, bytes]:
        """The outputs so far, by their names."""
        paths = [path for path in self.outputs.rglob("*") if path.is_file()]
        return {path.relative_to(self.outputs).as_posix(): path.read_bytes() for path in paths}

    def listed(self, names: Sequence[str]) -> tuple[Output, ...]:
        """Outputs as a job's record lists them."""
        return tuple(output_of(name, (self.outputs / name).read_bytes()) for name in names)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what writes that were killed have left."""
        for path in self.folder.rglob(".*.tmp"):
            path.unlink(missing_ok=True)


def owned(folder: Path) -> FileLock:
    """A lock of a folder with jobs, which one process at a time can have. ValueError if another one has it."""
    lock = FileLock(folder / "lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another server uses the jobs in {folder}") from None
    return lock


def output_of(name: str, data: bytes) -> Output:
    """An output as a job's record lists it."""
    kind = guess_type(name)[0] or "application/octet-stream"
    width, height = Image.open(io.BytesIO(data)).size if kind.startswith("image/") else (0, 0)
    return Output(name, kind, width, height, len(data), sha256(data).hexdigest())
