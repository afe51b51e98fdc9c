"""Routes of jobs of Comfy API v2: submit, look at, list, cancel, and read what was submitted."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from sigmafield.comfyui.problems import Validated
from sigmafield.serve.comfyui import prompts
from sigmafield.serve.comfyui.answers import plain
from sigmafield.serve.comfyui.context import ComfyUI, comfyui_of
from sigmafield.serve.comfyui.prompts import queued, told
from sigmafield.serve.comfyui.v2.assets import fields, name_of
from sigmafield.serve.comfyui.v2.errors import BASE, Refused
from sigmafield.serve.comfyui.v2.events import events
from sigmafield.serve.comfyui.v2.job_view import ALL, View, view_of
from sigmafield.serve.comfyui.v2.references import resolved
from sigmafield.serve.comfyui.v2.uploaded import named_in_workflow
from sigmafield.serve.http.context import OWNER, Server, in_thread, server_of
from sigmafield.serve.jobs import FINISHED, MOST_PRIORITY, JobRecord, WrongState

CANONICAL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Ids of jobs."""

MOST_LISTED = 100
"""Jobs of a page at most."""

LABELS, LABEL, TEXT = 16, 256, 1024
"""Labels of a job, characters of a label, and bytes of a label that is one text."""


async def health(request: web.Request) -> web.Response:
    """Whether the server runs jobs."""
    running = server_of(request).engine.running
    return plain({"status": "healthy" if running else "starting"})


async def create(request: web.Request) -> web.Response:
    """Put a workflow into the queue."""
    body = (await fields(request)).values
    for name in ("webhook_url", "inputs"):
        if body.get(name) is not None:
            raise Refused(422, "invalid_workflow", f"'{name}' is not offered here.")
    workflow = checked_workflow(body.get("workflow"))
    labels, priority = checked_labels(body.get("metadata")), checked_priority(body.get("priority"))
    check_extra(body.get("extra_data"))
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(r"[\x20-\x7e]{1,255}", key):
        raise Refused(400, "invalid_request", "Idempotency-Key must have 1 to 255 printable ASCII characters.")
    view = view_of(request)
    add = Adding(comfyui_of(request), server_of(request), priority)
    record = await in_thread(submitted, view, workflow, labels, key, add)
    return plain(await in_thread(view.job, record, request), 201)


def checked_workflow(workflow: Any) -> dict[str, Any]:
    """A workflow in API form. Refused if it is not one."""
    if not isinstance(workflow, dict):
        raise Refused(422, "invalid_workflow", "'workflow' must be an object: a workflow in API format.")
    if isinstance(workflow.get("nodes"), list) and "links" in workflow:
        said = "This is a workflow as the page saves it; export it in API format."
        raise Refused(422, "workflow_format_ui", said)
    return workflow


def checked_labels(labels: Any) -> Any:
    """What a client says of a job: a text, or texts by name. Refused if it is neither."""
    if labels is None:
        return None
    if isinstance(labels, str):
        if len(labels.encode("utf-8", "replace")) > TEXT:
            raise Refused(422, "invalid_request", f"'metadata' must have at most {TEXT} bytes.")
        return labels
    if not isinstance(labels, dict):
        raise Refused(422, "invalid_request", "'metadata' must be a string, or an object of strings.")
    good = all(
        isinstance(value, str) and 0 < len(name) <= LABEL and len(value) <= LABEL for name, value in labels.items()
    )
    if not good or len(labels) > LABELS:
        said = f"'metadata' must be at most {LABELS} strings of at most {LABEL} characters, by name."
        raise Refused(422, "metadata_invalid", said)
    return labels


def checked_priority(priority: Any) -> int:
    """A job's priority. Refused if it is not a whole number in range."""
    if priority is None:
        return 0
    if type(priority) is not int or abs(priority) > MOST_PRIORITY:
        raise Refused(422, "invalid_request", f"'priority' must be an integer, -{MOST_PRIORITY} to {MOST_PRIORITY}.")
    return priority


def check_extra(extra: Any) -> None:
    """Refuse values sent along with a workflow that are not known; the key of paid services is read by nothing here."""
    if extra is None:
        return
    if not isinstance(extra, dict) or any(name != "api_key_comfy_org" for name in extra):
        raise Refused(400, "invalid_request", "'extra_data' accepts only the 'api_key_comfy_org' field.")
    if not all(isinstance(value, str) for value in extra.values()):
        raise Refused(400, "invalid_request", "'api_key_comfy_org' must be a string.")


@dataclass(frozen=True)
class Adding:
    """Adds a prompt to the queue.

    Args:
        here: What ComfyUI's routes share.
        server: What all routes share.
        priority: The prompt's.
    """

    here: ComfyUI
    server: Server
    priority: int

    def __call__(self, prompt: Mapping[str, Any], owner: str) -> JobRecord:
        """The job of a prompt. Refused if it cannot run, or asks for too much."""
        id = str(uuid.uuid4())
        body = {
            "prompt": prompt, "id": id, "client": id, "targets": None, "place": None, "priority": self.priority,
            "extra_data": {"client_id": id, "create_time": round(time.time() * 1000)},
        }  # fmt: skip
        try:
            return queued(self.here, self.server, body, owner)[0]
        except prompts.Refused as error:
            raise invalid(error.found) from None


def submitted(view: View, workflow: Mapping[str, Any], labels: Any, key: str | None, add: Adding) -> JobRecord:
    """A new job. Refused where its assets or nodes are wrong, or its key was used."""

    def name(id: str | None, hash: str | None) -> str | None:
        asset = name_of(id, hash, view.owner, view.here, view.records)
        return None if asset is None else named_in_workflow(asset, view.here)

    prompt = resolved(workflow, name)
    if key is not None and not view.records.claim(view.owner, key):
        said = "This Idempotency-Key was used already. Keys are used once: look at your jobs instead."
        raise Refused(422, "idempotency_key_reuse", said)
    try:
        record = add(prompt, view.owner)
    except BaseException:
        if key is not None:
            view.records.release(view.owner, key)
        raise
    if labels is not None:
        view.records.label(record.id, labels)
    return record


def invalid(found: Validated) -> Refused:
    """The error of a workflow that cannot run."""
    described = found.described()
    return Refused(422, "invalid_workflow", described["error"]["message"], {"node_errors": described["node_errors"]})


def record_of(request: web.Request) -> JobRecord:
    """The job that a request's address names. Refused if its owner has no such job."""
    id = request.match_info["id"]
    if CANONICAL.fullmatch(id):
        try:
            record = server_of(request).job(id, request[OWNER])
        except LookupError:
            pass
        else:
            if record.client is not None:
                return record
    raise Refused(404, "not_found", f"No job {id[:100]}.")


async def show(request: web.Request) -> web.Response:
    """A job as it is now."""
    return plain(await in_thread(lambda: view_of(request).job(record_of(request), request)))


async def workflow(request: web.Request) -> web.Response:
    """The workflow of a job, with the names of files in place of assets."""
    record = await in_thread(record_of, request)
    return plain({"workflow": record.request["prompt"], "format": "api"})


async def logs(request: web.Request) -> web.Response:
    """The log of a job: none are kept."""
    await in_thread(record_of, request)
    return web.Response(status=204)


async def cancel(request: web.Request) -> web.Response:
    """End a job for good; one that has ended stays as it is."""

    def cancelled() -> dict[str, Any]:
        record, view = record_of(request), view_of(request)
        if record.status not in FINISHED:
            try:
                record = view.engine.cancel(record.id)
                told(comfyui_of(request), view.owner)
            except WrongState:  # it has ended meanwhile
                record = view.engine.get(record.id)
        return view.job(record, request)

    return plain(await in_thread(cancelled))


async def follow(request: web.Request) -> web.StreamResponse:
    """What happens to a job, until it ends."""
    record = await in_thread(record_of, request)
    return await events(request, record.id)


async def index(request: web.Request) -> web.Response:
    """Jobs, the latest first, a page at a time."""
    query = request.query
    limit = query.get("limit", "50")
    if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= MOST_LISTED:
        raise Refused(400, "invalid_request", f"'limit' must be an integer from 1 to {MOST_LISTED}.")
    states = [state for state in query.get("status", "").split(",") if state]
    if unknown := [state for state in states if state not in ALL]:
        raise Refused(400, "invalid_request", f"Unknown status filter value(s): {', '.join(unknown)}.")
    labels = {name[9:-1]: value for name, value in query.items() if re.fullmatch(r"metadata\[.+\]", name)}
    cursor = query.get("cursor") or None
    if cursor is not None and not CANONICAL.fullmatch(cursor):
        raise Refused(400, "invalid_cursor", "'cursor' must be one that a page has given.")
    return plain(await in_thread(page, request, int(limit), states, labels, cursor))


def page(
    request: web.Request, limit: int, states: list[str], labels: Mapping[str, str], cursor: str | None
) -> dict[str, Any]:
    """A page of jobs, with where the next one begins."""
    view = view_of(request)
    found: list[dict[str, Any]] = []
    for record in records(view, cursor):
        if states and view.state(record) not in states:
            continue
        kept = view.records.labels(record.id) if labels else None
        if labels and not (isinstance(kept, dict) and all(kept.get(name) == text for name, text in labels.items())):
            continue
        if len(found) == limit:
            return {"jobs": found, "next_cursor": found[-1]["id"], "truncated": False}
        found.append(view.job(record, request))
    return {"jobs": found, "truncated": False}


def records(view: View, cursor: str | None) -> Iterator[JobRecord]:
    """The jobs of an owner before one, the latest first."""
    while True:
        found = view.engine.list(owner=view.owner, limit=MOST_LISTED, before=cursor)
        yield from (record for record in found if record.client is not None)
        if len(found) < MOST_LISTED:
            return
        cursor = found[-1].id


def routes() -> list[web.RouteDef]:
    """The routes of jobs."""
    one = f"{BASE}/jobs/{{id}}"
    return [
        web.get(f"{BASE}/health", health),
        web.post(f"{BASE}/jobs", create),
        web.get(f"{BASE}/jobs", index),
        web.get(one, show),
        web.get(f"{one}/workflow", workflow),
        web.get(f"{one}/events", follow, allow_head=False),
        web.get(f"{one}/logs", logs),
        web.post(f"{one}/cancel", cancel),
    ]
