"""What a server knows of a job, as values: its record, its outputs, what happens to it, and why it is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sigmafield.core.registry import shown
from sigmafield.recipes.jobs import FINISHED, Kind, Output, Status

Happening = Literal["queued", "started", "step", "paused", "resumed", "done", "failed", "cancelled", "priority"]
"""What can happen to a job."""

MOST_PRIORITY = 1_000_000
"""The highest priority, and minus the lowest."""

STATUSES: tuple[Status, ...] = get_args(Status)
UNFINISHED: tuple[Status, ...] = tuple(status for status in STATUSES if status not in FINISHED)


@dataclass(frozen=True)
class JobRecord:
    """A job as it is now.

    Args:
        id: What it is called everywhere.
        kind: What its request is.
        request: As JSON holds it: a recipe's `to_plain()`, with the seed drawn, or {"prompt": …, "extra": …}.
        status: Where it is.
        priority: Jobs of a higher one run first, and displace running ones; from -1000000 to 1000000.
        owner: Who submitted it; "" where nobody has a name.
        created: When it was submitted, seconds since 1970.
        started: When it ran first; None before.
        ended: When it was done, failed or was cancelled; None before.
        step: Steps done.
        steps: Steps of the whole run, as far as that is known; 0 before it starts.
        progress: Share of the run that is done, 0 … 1.
        label: Where the run is, in words: "phase 2 of 4, 128x128"; "" where progress says enough.
        outputs: Its files, once it is done.
        error: Why it failed, in one line; None otherwise.
        cloned_from: The job that it was cloned from.
        key: Its idempotency key.
        webhook: Where to say that it has ended.
        place: Of the waiting jobs of one priority, the one with the smallest is next; by default jobs are counted from
            1. None before it is in the store.
        client: The client of ComfyUI's protocol that posted it, "" for one without a name; None for other jobs.
        shown: What ComfyUI's history says of a prompt that has ended, see `comfyui.messages`; None otherwise.
    """

    id: str
    kind: Kind
    request: Mapping[str, Any]
    status: Status
    priority: int = 0
    owner: str = ""
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    step: int = 0
    steps: int = 0
    progress: float = 0.0
    label: str = ""
    outputs: tuple[Output, ...] = ()
    error: str | None = None
    cloned_from: str | None = None
    key: str | None = None
    webhook: str | None = None
    place: float | None = None
    client: str | None = None
    shown: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Event:
    """Something that has happened to a job.

    Args:
        id: Ascends within a job, over restarts of the server as well.
        job: Id of the job.
        kind: What has happened.
        time: When, seconds since 1970.
        data: As JSON holds it; of a step: step, steps, progress, label, seconds_left and preview, whether there is a
            new one.
    """

    id: int
    job: str
    kind: Happening
    time: float
    data: Mapping[str, Any]


class WrongState(ValueError):
    """What is asked of a job does not go with its status."""


class Conflict(ValueError):
    """An idempotency key was used before, for another request."""


class QueueFull(Exception):
    """There are as many jobs as there may be.

    Args:
        message: Which limit is reached.
        seconds: When it is worth trying again, from now.
    """

    def __init__(self, message: str, seconds: float):
        super().__init__(message)
        self.seconds = max(1, math.ceil(seconds))


def check_priority(priority: int) -> None:
    """Raise ValueError for a priority that is not a whole number, or is out of range."""
    if type(priority) is not int or abs(priority) > MOST_PRIORITY:
        raise ValueError(f"priority must be a whole number, -{MOST_PRIORITY} … {MOST_PRIORITY}; got {shown(priority)}")
