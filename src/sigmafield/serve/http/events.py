"""Routes of server-sent events: what happens to a job, or to all jobs of an owner."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from contextlib import suppress

from aiohttp import web

from sigmafield.serve.http.context import OWNER, Server, in_thread, job_of, server_of
from sigmafield.serve.http.jobs import whole
from sigmafield.serve.jobs import FINISHED, Event

HEARTBEAT = 15.0
"""Seconds without an event after which a comment is sent, so that proxies keep the connection and a lost client is
noticed."""

REMEMBERED = 4096
"""Jobs of which a stream of all jobs knows the last event, those that it has told of last."""

HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def of_job(request: web.Request) -> web.StreamResponse:
    """What happens to a job, from the beginning or after the last event that the client has, until the job ends."""
    record, server = await job_of(request), server_of(request)
    last = whole(request.headers.get("Last-Event-ID", request.query.get("after", "0")), "Last-Event-ID", 0, 2**63 - 1)
    previews = request.query.get("previews", "1") != "0"
    with server.feed.watch(record.id) as watch:
        events = await in_thread(server.engine.events, record.id, last)
        if not events and record.status in FINISHED:
            return web.Response(status=204)  # which tells a browser not to connect again
        stream = web.StreamResponse(headers=HEADERS)
        await stream.prepare(request)
        with suppress(ConnectionResetError, LookupError):  # the client has gone, or the job is deleted
            while True:
                for text in await in_thread(texts, server, events, previews):
                    await stream.write(text)
                last = events[-1].id if events else last
                if server.feed.closing or any(event.kind in FINISHED for event in events):
                    break
                if not await watch.changed(HEARTBEAT):
                    await stream.write(b":\n\n")
                events = await in_thread(server.engine.events, record.id, last)
        return stream


async def of_all(request: web.Request) -> web.StreamResponse:
    """What happens to all jobs of the owner from now on."""
    server, owner = server_of(request), request[OWNER]
    last: dict[str, int] = {}
    previews = request.query.get("previews", "0") != "0"
    with server.feed.watch() as watch:
        stream = web.StreamResponse(headers=HEADERS)
        await stream.prepare(request)
        with suppress(ConnectionResetError):  # the client has gone
            await stream.write(b":\n\n")
            while not server.feed.closing:
                changed = await watch.changed(HEARTBEAT)
                if not changed:
                    await stream.write(b":\n\n")
                for job in sorted(changed):
                    events = await in_thread(new_events, server, job, owner, last)
                    for text in await in_thread(texts, server, events, previews):
                        await stream.write(text)
        return stream


def new_events(server: Server, job: str, owner: str, last: dict[str, int]) -> list[Event]:
    """A job's events after the last one that is noted, which is then noted; only the latest of a job that is new."""
    try:
        server.job(job, owner)
        events = server.engine.events(job, last.get(job, 0))
    except LookupError:  # another owner's, or deleted
        return []
    events = events if job in last else events[-1:]
    if events:
        last.pop(job, None)
        last[job] = events[-1].id
    while len(last) > REMEMBERED:
        del last[next(iter(last))]
    return events


def texts(server: Server, events: Sequence[Event], previews: bool) -> list[bytes]:
    """Events in the form of the protocol; the last step that has a preview carries it."""
    shown = next((event for event in reversed(events) if event.data.get("preview")), None) if previews else None
    return [_text(server, event, event is shown) for event in events]


def _text(server: Server, event: Event, with_preview: bool) -> bytes:
    data = {"job": event.job, "time": event.time, **event.data}
    if isinstance(error := data.get("error"), str):
        data["error"] = server.requests.public.text(error)
    if event.kind == "step":
        image = server.engine.preview(event.job) if with_preview else None
        data["preview"] = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}" if image else None
    return f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(data)}\n\n".encode()
