"""What `sigmafield jobs` does to a job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigmafield.runs.files import write_whole

if TYPE_CHECKING:
    from sigmafield.client import Client, JobInfo

ACTIONS = ("pause", "resume", "cancel", "delete", "priority", "clone", "fetch", "take")
"""What can be done with jobs."""


def steered(
    client: Client, id: str, action: str, number: int, changes: Mapping[str, Any], step: int | None
) -> JobInfo | str:
    """The job after an action; the new job of a clone; the id of one that is deleted."""
    job = client.job(id)
    if action == "priority":
        return job.prioritise(number)
    if action == "clone":
        return job.clone(step=step, changes=changes).info
    return {"pause": job.pause, "resume": job.resume, "cancel": job.cancel, "delete": job.delete}[action]() or id


def priority_of(ids: list[str]) -> int:
    """The number in front of the ids, which is taken away."""
    try:
        return int(ids.pop(0))
    except (IndexError, ValueError):
        raise ValueError("give a whole number: sigmafield jobs priority N ID") from None


def changes_of(texts: Sequence[str]) -> dict[str, Any]:
    """The entries of "name=value"; a value is JSON, or else a text."""
    found: dict[str, Any] = {}
    for name, equals, value in (text.partition("=") for text in texts):
        if not equals:
            raise ValueError(f"a value is set as NAME=VALUE, such as seed=5; got {name}")
        try:
            found[name] = json.loads(value)
        except ValueError:  # a text
            found[name] = value
    return found


def take(client: Client, ids: Sequence[str], output: Path | None) -> list[Path]:
    """Write paused workflows as files that `sigmafield run` finishes here.

    Args:
        client: Of the server.
        ids: The jobs.
        output: File to write, or folder; None is this folder.
    """
    folder = output if output is not None and (output.is_dir() or len(ids) > 1) else None
    paths: list[Path] = []
    for id in ids:
        path = output if output is not None and folder is None else (folder or Path()) / f"{id}.safetensors"
        write_whole(path, client.job(id).paused_file())
        paths.append(path)
    return paths
