"""The route of a job's events: its states, progress, previews and outputs, while it runs."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from aiohttp import web

from sigmafield.serve.comfyui.v2.errors import Refused
from sigmafield.serve.comfyui.v2.job_view import ENDED, View, view_of
from sigmafield.serve.comfyui.v2.outputs import with_address
from sigmafield.serve.http.context import OWNER, in_thread, server_of

HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

HEARTBEAT = 10.0
"""Seconds without an event after which a comment is sent; clients give up after 45."""

PAUSE = 0.45
"""Seconds between two looks at a job, so that there are about two events of a kind in a second."""

MOST_STREAMS = 64
"""Streams of one owner that are open at the same time; each looks at its job about twice in a second."""

STREAMS = web.AppKey("comfy api v2 streams", Counter[str])
"""Numbers of open streams by owner."""

Frame = tuple[str, dict[str, Any]]


class Stream:
    """The events of one job for one client.

    Args:
        view: Shows jobs.
        id: The job.
        request: The client's.
    """

    def __init__(self, view: View, id: str, request: web.Request):
        self.view, self.id, self.request = view, id, request
        self.ended = False
        self._status: dict[str, Any] | None = None
        self._progress: dict[str, Any] | None = None
        self._preview: bytes | None = None
        self._outputs: set[str] = set()

    def frames(self) -> list[Frame]:
        """What is new; the last frame of a job that has ended is its state."""
        return list(self._new())

    def _new(self) -> Iterator[Frame]:
        try:
            record = self.view.engine.get(self.id)
        except LookupError:  # deleted
            self.ended = True
            yield "status", {"status": "expired"}
            return
        state = self.view.state(record)
        status: dict[str, Any] = {"status": state}
        if (position := self.view.position(record)) is not None:
            status["queue_position"] = position
        self.ended = state in ENDED
        if status != self._status and not self.ended:
            self._status = status
            yield "status", status
        if not self.ended:
            yield from self._running(self.view.progress(record))
        for output in self.view.outputs(record):
            if output["id"] not in self._outputs:
                self._outputs.add(output["id"])
                yield "output", with_address(self.request, output)
        if self.ended:
            yield "status", status

    def _running(self, progress: dict[str, Any] | None) -> Iterator[Frame]:
        if progress is not None and progress != self._progress:
            self._progress = progress
            yield "progress", progress
        image = self.view.engine.preview(self.id)
        if image is not None and image is not self._preview:
            self._preview = image
            node = (progress or {}).get("current_node", "")
            yield "preview", {"node_id": node, "content_type": "image/jpeg",
                              "data_base64": base64.b64encode(image).decode()}  # fmt: skip


@contextmanager
def counted(request: web.Request) -> Iterator[None]:
    """Counts a stream while it is open. Refused if its owner has as many as may be open at the same time."""
    streams, owner = request.app[STREAMS], request[OWNER]
    if streams[owner] >= MOST_STREAMS:
        said = f"{MOST_STREAMS} streams of events are open already: close some, or ask for the jobs themselves."
        raise Refused(429, "too_many_streams", said, seconds=5)
    streams[owner] += 1
    try:
        yield
    finally:
        streams[owner] -= 1


async def events(request: web.Request, id: str) -> web.StreamResponse:
    """What happens to a job, until it ends. Refused if too many streams are open."""
    feed, made = server_of(request).feed, Stream(view_of(request), id, request)
    answer = web.StreamResponse(headers=HEADERS)
    with counted(request), feed.watch(id) as watch, suppress(ConnectionResetError):
        frames = await in_thread(made.frames)
        await answer.prepare(request)
        last = time.monotonic()
        while True:
            for name, data in frames:
                await answer.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
                last = time.monotonic()
            if made.ended or feed.closing:
                break
            if time.monotonic() - last > HEARTBEAT:
                await answer.write(b": keepalive\n\n")
                last = time.monotonic()
            await watch.changed(1.0)
            await asyncio.sleep(PAUSE)
            frames = await in_thread(made.frames)
    return answer
