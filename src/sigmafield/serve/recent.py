"""What is shown of jobs while they run and is not worth a place on disk: steps and previews of the latest jobs."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from sigmafield.serve.jobs import FINISHED, Event
from sigmafield.serve.store import Store

JOBS = 64
"""Jobs whose steps are kept."""

STEPS = 512
"""Steps of a job that are kept."""

TIMES = 1000
"""Steps whose times are kept for figures."""


@dataclass
class Shown:
    """Steps and preview of one job."""

    steps: deque[Event] = field(default_factory=lambda: deque(maxlen=STEPS))
    preview: bytes | None = None


class Recent:
    """Steps and previews of the jobs that ran last; any thread may call any method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Shown] = OrderedDict()
        self._seconds: deque[float] = deque(maxlen=TIMES)

    def add(self, event: Event, preview: bytes | None, seconds: float) -> None:
        """Note a step and how long it took; a preview of None leaves the one before."""
        with self._lock:
            shown = self._jobs.setdefault(event.job, Shown())
            self._jobs.move_to_end(event.job)
            shown.steps.append(event)
            shown.preview = preview or shown.preview
            self._seconds.append(seconds)
            while len(self._jobs) > JOBS:
                self._jobs.popitem(last=False)

    def steps(self, job: str, after: int) -> list[Event]:
        """The steps of a job after the event with an id."""
        with self._lock:
            shown = self._jobs.get(job)
            return [] if shown is None else [event for event in shown.steps if event.id > after]

    def preview(self, job: str) -> bytes | None:
        """The latest preview of a job, a JPEG; None before the first one."""
        with self._lock:
            shown = self._jobs.get(job)
            return None if shown is None else shown.preview

    @property
    def seconds(self) -> list[float]:
        """How long the latest steps took, of all jobs."""
        with self._lock:
            return list(self._seconds)

    def forget(self, job: str) -> None:
        """Drop a job."""
        with self._lock:
            self._jobs.pop(job, None)


def happened(store: Store, recent: Recent, id: str, after: int) -> list[Event]:
    """What has happened to a job after the event with an id, oldest first. LookupError if the job does not exist.

    Args:
        store: What is kept with the job.
        recent: Steps.
        id: The job.
        after: The event; 0 is before all.
    """
    recorded = store.events(id, 0)
    if not recorded:
        store.get(id)
    # the thread of a cancelled job takes its step to the end
    ended = next((event.id for event in recorded if event.kind in FINISHED), math.inf)
    steps = [event for event in recent.steps(id, after) if event.id < ended]
    return sorted([*(event for event in recorded if event.id > after), *steps], key=lambda event: event.id)
