"""A job as Comfy API v2 shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from sigmafield.comfyui.graph import upstream_first
from sigmafield.serve.comfyui.folders import Directories
from sigmafield.serve.comfyui.owned import directories
from sigmafield.serve.comfyui.prompt_runs import PromptRun
from sigmafield.serve.comfyui.v2.assets import RECORDS, when
from sigmafield.serve.comfyui.v2.errors import BASE
from sigmafield.serve.comfyui.v2.outputs import Results, assets_of, with_address
from sigmafield.serve.comfyui.v2.records import Records
from sigmafield.serve.engine import Engine
from sigmafield.serve.http.context import OWNER, server_of
from sigmafield.serve.jobs import JobRecord, Status

KEPT = timedelta(days=3650)
"""How long jobs are said to be kept; they are kept as the server's settings say."""

STATES: Mapping[Status, str] = {
    "queued": "queued", "running": "running", "paused": "queued", "done": "succeeded", "failed": "failed",
    "cancelled": "canceled",
}  # fmt: skip
"""The protocol's states by the engine's."""

ENDED = ("succeeded", "canceled", "failed", "expired")
"""States that a job never leaves."""

ALL = ("queued", "running", "succeeded", "canceling", "canceled", "failed", "expired")


@dataclass(frozen=True)
class View:
    """What is needed to show the jobs of an owner.

    Args:
        engine: Runs them.
        owner: The owner.
        here: The owner's directories.
        records: Assets and labels.
        texts: Folder of outputs that are texts.
    """

    engine: Engine
    owner: str
    here: Directories
    records: Records
    texts: Path

    def run(self, id: str) -> PromptRun | None:
        """A job that runs."""
        prompts = self.engine.workflows.prompts
        return None if prompts is None else prompts.running.get(id)

    def state(self, record: JobRecord) -> str:
        """The protocol's state of a job: one that is cancelled and still in its step is being cancelled."""
        if record.status == "cancelled" and self.run(record.id) is not None:
            return "canceling"
        return STATES[record.status]

    def shown(self, record: JobRecord) -> Mapping[str, Any]:
        """What the history says of a job, or will say of one that runs."""
        run = self.run(record.id)
        return run.course.shown() if run is not None else record.shown or {}

    def outputs(self, record: JobRecord) -> list[dict[str, Any]]:
        """The outputs of a job so far."""
        results: Results = self.shown(record).get("outputs", {})
        return assets_of(record.id, dict(results), self.owner, self.here, self.records, self.texts)

    def position(self, record: JobRecord) -> int | None:
        """How many jobs run before one that waits, and 1; None for others."""
        if record.status != "queued":
            return None
        waiting = self.engine.posted(self.owner, ["queued"])
        order = sorted(waiting, key=lambda each: (-each.priority, each.place or 0))
        return next((k for k, each in enumerate(order, 1) if each.id == record.id), None)

    def progress(self, record: JobRecord) -> dict[str, Any] | None:
        """How far a job is; None before it runs."""
        if record.started is None:
            return None
        prompt, done = record.request.get("prompt", {}), STATES[record.status] == "succeeded"
        total = len(planned(record))
        run = self.run(record.id)
        finished = total if done else run.course.finished if run is not None else 0
        found: dict[str, Any] = {
            "value": 1.0 if done else min(max(record.progress, 0.0), 1.0), "nodes_done": min(finished, total),
            "nodes_total": total,
        }  # fmt: skip
        if run is not None and run.course.last is not None:
            found["current_node"] = run.course.last
            found["current_node_class"] = str(prompt.get(run.course.last, {}).get("class_type", ""))
        if record.label:  # "KSampler 3/8"
            found["message"] = record.label
            step, _, steps = record.label.rpartition(" ")[2].partition("/")
            if step.isdecimal() and steps.isdecimal():
                found |= {"step": int(step), "steps": int(steps)}
        return found

    def job(self, record: JobRecord, request: web.Request) -> dict[str, Any]:
        """A job as clients see it."""
        created = when(record.created)
        path = f"{BASE}/jobs/{record.id}"
        found: dict[str, Any] = {
            "id": record.id, "status": self.state(record), "created_at": created,
            "started_at": None if record.started is None else when(record.started),
            "completed_at": None if record.ended is None else when(record.ended),
            "expires_at": when(record.created + KEPT.total_seconds()), "queue_position": self.position(record),
            "progress": self.progress(record),
            "outputs": [with_address(request, output) for output in self.outputs(record)],
            "error": error_of(record, self.shown(record)), "outputs_reused": reused(self.shown(record)),
            "metrics": {
                "queue_ms": milliseconds(record.created, record.started),
                "execution_ms": milliseconds(record.started, record.ended),
            },
            "urls": {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"},
            "create_time": created, "update_time": when(record.ended or record.started or record.created),
        }  # fmt: skip
        labels = self.records.labels(record.id)
        if labels is not None:
            found["metadata"] = labels
        if record.priority:
            found["priority"] = record.priority
        return found


def view_of(request: web.Request) -> View:
    """What is needed to show the jobs of a request's owner."""
    here = directories(request)
    return View(
        server_of(request).engine, request[OWNER], here, request.app[RECORDS], here.base / "comfy-api-v2" / "texts"
    )


def planned(record: JobRecord) -> list[str]:
    """The nodes of a job that its outputs need."""
    prompt, targets = record.request.get("prompt", {}), record.request.get("targets")
    try:
        return list(upstream_first(prompt, targets or list(prompt)))
    except ValueError:
        return list(prompt)


def milliseconds(start: float | None, end: float | None) -> int | None:
    """The time between two moments, as far as they are known."""
    return None if start is None or end is None else max(0, round((end - start) * 1000))


def error_of(record: JobRecord, shown: Mapping[str, Any]) -> dict[str, Any] | None:
    """Why a job has failed; None for one that has not."""
    if record.status != "failed":
        return None
    for kind, data in shown.get("status", {}).get("messages", ()):
        if kind == "execution_error":
            return {
                "code": "node_execution_error", "message": data["exception_message"], "node_id": data["node_id"],
                "class_type": data["node_type"], "traceback": "".join(data["traceback"]) or None,
            }  # fmt: skip
    return {"code": "node_execution_error", "message": record.error or "the job failed"}


def reused(shown: Mapping[str, Any]) -> bool:
    """Whether results of earlier jobs were used."""
    messages = shown.get("status", {}).get("messages", ())
    return any(kind == "execution_cached" and data["nodes"] for kind, data in messages)
