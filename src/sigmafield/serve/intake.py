"""How a job enters the queue: what is checked before, and which request is known already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sigmafield.core.registry import shown
from sigmafield.recipes.recipe import Recipe
from sigmafield.serve.jobs import FINISHED, Conflict, JobRecord, Kind, QueueFull
from sigmafield.serve.settings import EngineSettings
from sigmafield.serve.store import Store
from sigmafield.serve.workflow_job import Workflows


def settled(
    kind: Kind, request: Mapping[str, object], model: str, workflows: Workflows, owner: str, client: str | None
) -> dict[str, Any]:
    """The request of a job as it is kept: a recipe with its model named and its seed drawn.

    Args:
        kind: What the request is.
        request: As JSON holds it.
        model: The model of a recipe that names none.
        workflows: What workflows find.
        owner: Whose job it is.
        client: As `JobRecord` has it.

    Raises:
        ValueError: The request is not valid.
    """
    if not isinstance(request, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"a job's request must be an object; got {shown(request)}")
    if kind == "recipe":
        return Recipe.from_plain({"model": model, **request}).to_plain()
    if kind == "workflow":
        workflows.of(owner, client).checked(request)
        return dict(request)
    raise ValueError(f"kind must be recipe or workflow; got {shown(kind)}")


def digest_of(kind: Kind, request: Mapping[str, object]) -> str:
    """What a request is known by, to tell whether a key is used for the same one again."""
    return hashlib.sha256(json.dumps([kind, request], sort_keys=True).encode()).hexdigest()


def admit(record: JobRecord, digest: str, store: Store, settings: EngineSettings, seconds: float) -> JobRecord | None:
    """Put a job into the store, unless the job of the same key is there.

    Args:
        record: The job.
        digest: Of its request.
        store: The jobs.
        settings: How many there may be.
        seconds: How long a job takes, for the error.

    Returns:
        The job of the same owner, key and request that was there before; None if this one was added.

    Raises:
        ValueError: There is a job with this id.
        Conflict: The key was used for another request.
        QueueFull: There are as many jobs as there may be.
    """
    found = store.add(record, digest, lambda: check_room(store, settings, record.owner, seconds))
    if found is not None and store.digest(found.id) != digest:
        raise Conflict(f"key {found.key!r} was used before, for another request: job {found.id}")
    return found


def check_room(store: Store, settings: EngineSettings, owner: str, seconds: float) -> None:
    """Raise QueueFull if there are as many jobs as there may be.

    Args:
        store: The jobs.
        settings: How many there may be.
        owner: Whose job is to be added.
        seconds: How long a job takes, for the error.
    """
    counts, most = store.counts(), settings.queue_length
    if (waiting := counts["queued"] + counts["paused"]) >= most:
        raise QueueFull(f"{most} jobs wait already", seconds * max(1, waiting // 10))
    if (each := settings.jobs_per_owner) is not None:
        own = store.counts(owner)
        if sum(n for status, n in own.items() if status not in FINISHED) >= each:
            raise QueueFull(f"there are {each} unfinished jobs of this owner already", seconds)
