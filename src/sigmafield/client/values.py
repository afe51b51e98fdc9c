"""What a server says about its jobs, as values."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sigmafield.recipes.jobs import FINISHED, Kind, Output, Status


@dataclass(frozen=True)
class JobInfo:
    """A job as it was when the server was asked.

    Args:
        id: What it is called.
        kind: "recipe" or "workflow".
        status: Where it is.
        priority: Jobs of a higher one run first.
        created: When it was submitted, seconds since 1970.
        started: When it ran first; None before.
        ended: When it was done, failed or was cancelled; None before.
        step: Steps done.
        steps: Steps of the whole run; 0 before it starts.
        progress: Share of the run that is done, 0 … 1.
        label: Where the run is, in words.
        request: The recipe as JSON holds it, or the workflow's nodes.
        outputs: Its files, once it is done.
        error: Why it failed; None otherwise.
        cloned_from: The job that it was cloned from.
        saved: Steps of saved states, from which it can be cloned; empty in lists of jobs.
    """

    id: str
    kind: Kind
    status: Status
    priority: int
    created: float
    started: float | None
    ended: float | None
    step: int
    steps: int
    progress: float
    label: str
    request: Mapping[str, Any]
    outputs: tuple[Output, ...] = ()
    error: str | None = None
    cloned_from: str | None = None
    saved: tuple[int, ...] = ()

    @classmethod
    def of(cls, entries: Mapping[str, Any]) -> JobInfo:
        """The job in an answer; entries that a later server may add are ignored."""
        known = {field.name: entries[field.name] for field in dataclasses.fields(cls) if field.name in entries}
        names = [field.name for field in dataclasses.fields(Output)]
        outputs = tuple(Output(**{name: each[name] for name in names}) for each in entries["outputs"])
        saved = tuple(entries.get("saved", ()))
        progress = float(entries["progress"])  # JSON may have 0
        request = entries[entries["kind"]]
        return cls(**{**known, "progress": progress, "request": request, "outputs": outputs, "saved": saved})


@dataclass(frozen=True)
class Event:
    """Something that has happened to a job.

    Args:
        id: Ascends within a job.
        kind: "queued", "started", "step", "paused", "resumed", "priority", "done", "failed" or "cancelled".
        job: The job's id.
        time: When, seconds since 1970.
        data: As JSON holds it; of a step: step, steps, progress, label and seconds_left.
        preview: A JPEG of what a step sees; None without a new one.
    """

    id: int
    kind: str
    job: str
    time: float
    data: Mapping[str, Any]
    preview: bytes | None = None

    @property
    def last(self) -> bool:
        """Whether the job has ended with it."""
        return self.kind in FINISHED

    @classmethod
    def of(cls, block: bytes) -> Event | None:
        """The event in a block of a stream; None in a comment."""
        lines = [line.partition(": ") for line in block.decode().splitlines() if not line.startswith(":")]
        entries = {name: value for name, _, value in lines}
        if "data" not in entries:
            return None
        data = json.loads(entries["data"])
        job, time, url = data.pop("job"), data.pop("time"), data.pop("preview", None)
        preview = base64.b64decode(url.partition(",")[2]) if url else None
        return cls(int(entries["id"]), entries["event"], job, time, data, preview)
