"""Routes of ComfyUI's history: the prompts that have ended, over restarts of the server as well."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from aiohttp import web

from sigmafield.serve.comfyui.answers import body_of, cleared, plain, refused
from sigmafield.serve.comfyui.context import ComfyUI, comfyui_of
from sigmafield.serve.comfyui.messages import Course
from sigmafield.serve.comfyui.prompts import five
from sigmafield.serve.http.context import OWNER, in_thread
from sigmafield.serve.jobs import FINISHED, JobRecord, WrongState

MOST = 10_000
"""Prompts in one answer, the latest, as in ComfyUI."""


def entry(record: JobRecord) -> dict[str, Any]:
    """A prompt's entry."""
    shown = record.shown
    if shown is None:  # the server has ended while the prompt ran, and too often
        course = Course(record.id)
        course.failed(RuntimeError(record.error or "the prompt has not run"))
        shown = course.shown()
    return {"prompt": five(record), **shown}


async def index(request: web.Request) -> web.Response:
    """The prompts that have ended, the oldest first."""
    engine, owner = comfyui_of(request).engine, request[OWNER]
    most = min(_whole(request.query.get("max_items"), MOST), MOST)
    offset = _whole(request.query.get("offset"), -1)
    latest = offset < 0
    found = await in_thread(
        engine.posted, owner, FINISHED, limit=max(most, 0), offset=0 if latest else offset, latest=latest
    )
    return plain({record.id: entry(record) for record in (reversed(found) if latest else found)})


async def show(request: web.Request) -> web.Response:
    """One prompt that has ended; without one, nothing."""
    here, owner, id = comfyui_of(request), request[OWNER], request.match_info["prompt_id"]
    record = await in_thread(ended, here, id, owner)
    return plain({} if record is None else {id: entry(record)})


def ended(here: ComfyUI, id: str, owner: str) -> JobRecord | None:
    """A prompt that has ended; None if there is none with this id."""
    with suppress(LookupError):
        record = here.engine.get(id)
        known = record.status in FINISHED and (record.status != "cancelled" or record.shown is not None)
        return record if record.owner == owner and record.client is not None and known else None
    return None


async def change(request: web.Request) -> web.Response:
    """Delete prompts from the history; the files that they have saved stay."""
    here, owner = comfyui_of(request), request[OWNER]
    try:
        clear, ids = cleared(await body_of(request))
    except ValueError as error:
        return refused(str(error))

    def deleted() -> None:
        every = [record.id for record in here.engine.posted(owner, FINISHED)] if clear else []
        for id in (*every, *ids):
            if ended(here, id, owner) is not None:
                with suppress(LookupError, WrongState):
                    here.engine.delete(id)

    await in_thread(deleted)
    return web.Response()


def _whole(text: str | None, default: int) -> int:
    try:
        return default if text is None else int(text)
    except ValueError:
        return default


def routes() -> list[web.RouteDef]:
    """The routes of the history."""
    return [web.get("/history", index), web.get("/history/{prompt_id}", show), web.post("/history", change)]
