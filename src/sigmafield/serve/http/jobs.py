"""Routes of jobs: submit, look at, steer, clone, delete; and the blocking one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import msgspec
from aiohttp import web

from sigmafield.serve.http.bodies import Clone, NewJob, NewPriority, read_json
from sigmafield.serve.http.context import OWNER, Server, in_thread, job_of, server_of
from sigmafield.serve.http.outputs import file_answer
from sigmafield.serve.http.webhooks import Webhook, check_url
from sigmafield.serve.jobs import FINISHED, STATUSES, Conflict, JobRecord, Status
from sigmafield.serve.requests import BadRequest

MOST_LISTED = 1000
"""Jobs in one answer at most."""


def public(server: Server, record: JobRecord) -> dict[str, Any]:
    """A job as clients see it."""
    hook = None if record.webhook is None else msgspec.json.decode(record.webhook, type=Webhook).url
    return {**server.requests.public.job(record), "webhook": hook}


async def submitted(request: web.Request, body: NewJob) -> JobRecord:
    """The job that a body asks for, in the queue."""
    server, owner = server_of(request), request[OWNER]
    if (body.recipe is None) == (body.workflow is None):
        raise BadRequest("the body must have one of recipe and workflow", "recipe")
    if body.webhook is not None:
        check_url(body.webhook.url, server.settings.private_webhooks)
    hook = None if body.webhook is None else msgspec.json.encode(body.webhook).decode()
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= 200 and key.isprintable()):  # bytes that are not UTF-8 are not
        raise BadRequest("the header Idempotency-Key must have 1 … 200 visible characters", "Idempotency-Key")

    def submit() -> JobRecord:
        if body.recipe is not None:
            kind, made = "recipe", server.requests.recipe(body.recipe, owner)
        else:
            kind, made = "workflow", server.requests.workflow(body.workflow or {}, body.extra, owner)
        try:
            record = server.engine.submit(kind, made, priority=body.priority, owner=owner, key=key, webhook=hook)
        except Conflict:
            raise
        except ValueError as error:
            raise BadRequest(server.requests.public.text(" ".join(str(error).split())), kind) from None
        server.webhooks.expect(record)
        return record

    return await in_thread(submit)


async def create(request: web.Request) -> web.Response:
    """Put a job into the queue."""
    record = await submitted(request, await read_json(request, NewJob))
    answer = public(server_of(request), record)
    return web.json_response(answer, status=202, headers={"Location": f"/v1/jobs/{record.id}"})


async def index(request: web.Request) -> web.Response:
    """List jobs, the latest first."""
    server, owner, query = server_of(request), request[OWNER], request.query
    status = query.get("status")
    if status is not None and status not in STATUSES:
        raise BadRequest(f"status must be one of {', '.join(STATUSES)}; got {status[:100]!r}", "status")
    limit = whole(query.get("limit", "100"), "limit", 1, MOST_LISTED)
    before = query.get("before")
    if before is not None:
        await in_thread(server.job, before, owner)  # the job of another owner does not exist for this one
    found = await in_thread(
        server.engine.list, status=cast("Status | None", status), owner=owner, limit=limit, before=before
    )
    return web.json_response({"jobs": [public(server, record) for record in found]})


async def show(request: web.Request) -> web.Response:
    """One job as it is now, with the steps of its saved states, from which it can be cloned."""
    record, server = await job_of(request), server_of(request)
    saved = await in_thread(server.engine.saved, record.id)
    return web.json_response({**public(server, record), "saved": saved})


async def delete(request: web.Request) -> web.Response:
    """Delete a job that does not run, with its files."""
    record = await job_of(request)
    await in_thread(server_of(request).engine.delete, record.id)
    return web.Response(status=204)


async def pause(request: web.Request) -> web.Response:
    """Let a job wait; its state is saved."""
    return await _steered(request, server_of(request).engine.pause)


async def resume(request: web.Request) -> web.Response:
    """Let a paused job go on."""
    return await _steered(request, server_of(request).engine.resume)


async def cancel(request: web.Request) -> web.Response:
    """End a job for good."""
    return await _steered(request, server_of(request).engine.cancel)


async def _steered(request: web.Request, change: Callable[[str], JobRecord]) -> web.Response:
    record = await job_of(request)
    return web.json_response(public(server_of(request), await in_thread(change, record.id)))


async def prioritise(request: web.Request) -> web.Response:
    """Give a job another priority."""
    record, body = await job_of(request), await read_json(request, NewPriority)
    server = server_of(request)
    return web.json_response(public(server, await in_thread(server.engine.prioritise, record.id, body.priority)))


async def clone(request: web.Request) -> web.Response:
    """Submit a job again, from its start or a saved state, with some entries of its recipe changed."""
    record, body = await job_of(request), await read_json(request, Clone)
    server, owner = server_of(request), request[OWNER]
    if body.changes and record.kind != "recipe":
        raise BadRequest("a workflow is cloned as it is: post the changed one as a new job", "changes")

    def cloned() -> JobRecord:
        changes = server.requests.changes(record, body.changes, owner) if record.kind == "recipe" else {}
        return server.engine.clone(record.id, step=body.step, changes=changes)

    made = await in_thread(cloned)
    return web.json_response(public(server, made), status=202, headers={"Location": f"/v1/jobs/{made.id}"})


async def finished(request: web.Request, record: JobRecord) -> JobRecord:
    """The job once it has ended, or as it is after `HttpSettings.wait_seconds`.

    A job whose client goes away meanwhile is cancelled, unless it has an idempotency key: its client can ask again.
    """
    server = server_of(request)
    end = time.monotonic() + server.settings.wait_seconds
    with server.feed.watch(record.id) as watch:
        while True:
            record = await in_thread(server.engine.get, record.id)
            left = end - time.monotonic()
            if record.status in FINISHED or left <= 0 or server.feed.closing:
                return record
            if request.transport is None or request.transport.is_closing():
                if record.key is None:
                    await in_thread(server.engine.cancel, record.id)
                raise ConnectionResetError
            await watch.changed(min(left, 1.0))


async def generate(request: web.Request) -> web.StreamResponse:
    """Run a job and answer with its first image, or with the job where JSON is asked for or nothing was saved."""
    record = await submitted(request, await read_json(request, NewJob))
    record = await finished(request, record)
    server = server_of(request)
    headers = {"X-Job-Id": record.id, "Location": f"/v1/jobs/{record.id}"}
    if record.status not in FINISHED:  # it goes on, and the client can ask for it
        return web.json_response(public(server, record), status=202, headers={**headers, "Retry-After": "5"})
    if record.status != "done":
        why = server.requests.public.text(record.error) if record.error else f"the job is {record.status}"
        raise JobFailed(why, record.id)
    if not record.outputs or "application/json" in request.headers.get("Accept", ""):  # a workflow may save nothing
        return web.json_response(public(server, record), headers=headers)
    return file_answer(server, record, 0, headers)


class JobFailed(BadRequest):
    """A job that a client waited for has failed or was cancelled.

    Args:
        why: Its error.
        id: The job.
    """

    def __init__(self, why: str, id: str):
        super().__init__(f"job {id}: {why}")


def whole(text: str, name: str, low: int, high: int) -> int:
    """A whole number of a query. BadRequest if it is not one, or out of range."""
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and low <= int(text) <= high):
        raise BadRequest(f"{name} must be a whole number, {low} … {high}; got {text[:100]!r}", name)
    return int(text)
