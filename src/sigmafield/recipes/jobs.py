"""What a server and its clients call the states and the files of a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["recipe", "workflow"]
"""What a job's request is: a recipe, or a workflow of ComfyUI in API form."""

Status = Literal["queued", "running", "paused", "done", "failed", "cancelled"]
"""Where a job is. "running" is the only status that a job is given while a thread works on it."""

FINISHED: tuple[Status, ...] = ("done", "failed", "cancelled")
"""A job that has one of these never runs again; its last event is of that kind."""


@dataclass(frozen=True)
class Output:
    """A file that a job has made.

    Args:
        name: Its name; with "/" where a workflow saves it in a folder.
        media_type: "image/png" or another type of HTTP.
        width: Width in pixels; 0 for what is not an image.
        height: Height in pixels.
        size: Bytes.
        sha256: Digest of the bytes.
    """

    name: str
    media_type: str
    width: int
    height: int
    size: int
    sha256: str
