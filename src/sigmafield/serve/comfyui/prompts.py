"""Routes of ComfyUI's queue: prompts are posted, looked at, taken out and interrupted."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from aiohttp import web

from sigmafield.comfyui.problems import Problem, Validated
from sigmafield.comfyui.validation import validate
from sigmafield.core.registry import shown
from sigmafield.serve.comfyui.answers import body_of, cleared, plain
from sigmafield.serve.comfyui.context import ComfyUI, comfyui_of
from sigmafield.serve.http.context import OWNER, Server, in_thread, server_of
from sigmafield.serve.jobs import FINISHED, UNFINISHED, JobRecord, Status, WrongState
from sigmafield.serve.requests import BadRequest

SECRET = ("auth_token_comfy_org", "api_key_comfy_org")
"""Entries of extra_data that are not kept."""

LINGERING = 1.0
"""Seconds for which prompts of comfy-api-proxy stay in the queue after their end."""

MOST_LINGERING = 100
"""Prompts that are looked at for that."""

WAITING: tuple[Status, ...] = ("queued", "paused")


class Refused(Exception):
    """A prompt is not queued.

    Args:
        found: Why.
    """

    def __init__(self, found: Validated):
        super().__init__()
        self.found = found


async def count(request: web.Request) -> web.Response:
    """How many prompts wait or run."""
    remaining = await in_thread(comfyui_of(request).engine.count_posted, request[OWNER], UNFINISHED)
    return plain({"exec_info": {"queue_remaining": remaining}})


async def post(request: web.Request) -> web.Response:
    """Queue a prompt."""
    here, server, owner = comfyui_of(request), server_of(request), request[OWNER]
    try:
        body = posted(await body_of(request), request.headers.get("Comfy-Usage-Source"))
        record, found = await in_thread(queued, here, server, body, owner)
    except ValueError as error:
        return _refused("invalid_request", " ".join(str(error).split()))
    except Refused as error:
        return plain({"error": {}, **error.found.described()}, 400)
    return plain({"prompt_id": record.id, "number": number(record), "node_errors": found.described()["node_errors"]})


def posted(body: Any, source: str | None) -> dict[str, Any]:
    """The body of a prompt, with all entries.

    Raises:
        ValueError: It is not an object, or an entry is of another type.
        Refused: It has no prompt, or an id that is not a UUID.
    """
    if not isinstance(body, Mapping):
        raise ValueError(f"the body must be an object; got {shown(body)}")
    if "prompt" not in body:
        raise Refused(Validated(error=Problem("no_prompt", "No prompt provided", message="No prompt provided")))
    id = body.get("prompt_id")
    if id is not None and not is_uuid(id):
        message = "prompt_id must be a valid UUID"
        raise Refused(Validated(error=Problem("invalid_prompt_id", shown(id), message=message)))
    extra, targets, place = body.get("extra_data") or {}, body.get("partial_execution_targets"), body.get("number")
    if not isinstance(extra, Mapping) or not isinstance(extra.get("extra_pnginfo") or {}, Mapping):
        raise ValueError(f"extra_data must be an object, and extra_pnginfo in it as well; got {shown(extra)}")
    if targets is not None and not (isinstance(targets, list) and all(isinstance(each, str) for each in targets)):
        raise ValueError(f"partial_execution_targets must be a list of node ids; got {shown(targets)}")
    if place is not None:
        try:
            place = float(place)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"number must be a number; got {shown(place)}") from None
        if not math.isfinite(place):
            raise ValueError(f"number must be finite; got {place}")
    kept = {name: value for name, value in extra.items() if name not in SECRET}
    if source is not None:
        kept.setdefault("comfy_usage_source", source)
    client = body.get("client_id")
    kept |= ({} if client is None else {"client_id": client}) | {"create_time": round(time.time() * 1000)}
    return {
        "prompt": body["prompt"], "id": id or str(uuid.uuid4()), "client": "" if client is None else str(client),
        "extra_data": kept, "targets": targets, "place": -math.inf if body.get("front") else place, "priority": 0,
    }  # fmt: skip


def is_uuid(value: Any) -> bool:
    """Whether a value is a UUID in its usual form."""
    with suppress(ValueError):
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    return False


def queued(here: ComfyUI, server: Server, body: Mapping[str, Any], owner: str) -> tuple[JobRecord, Validated]:
    """(the job of a prompt, what was found about its outputs).

    Raises:
        Refused: No output can be computed, it asks for more than the limits, or a prompt with its id waits or runs.
    """
    workflows = here.engine.workflows.of(owner, body["client"])
    found = validate(body["prompt"], workflows.classes, workflows.folders, body["targets"])
    if found.error is not None:
        raise Refused(found)
    try:
        for name, node in found.prompt.items():
            server.requests.check_node(name, node["inputs"])
    except BadRequest as error:
        raise Refused(Validated(error=Problem("limit_exceeded", message=str(error)))) from None
    extra = body["extra_data"].get("extra_pnginfo")
    request = {
        "prompt": found.prompt, "targets": list(found.outputs), "extra_data": body["extra_data"],
        **({} if extra is None else {"extra": extra}),
    }  # fmt: skip
    with here.prompts.queueing:  # its first message comes before those of its run
        _make_free(here, body["id"], owner)
        record = here.engine.submit(
            "workflow", request, priority=body["priority"], owner=owner, id=body["id"], place=body["place"],
            client=body["client"],
        )  # fmt: skip
        told(here, owner)
    return here.engine.get(record.id), found


def _make_free(here: ComfyUI, id: str, owner: str) -> None:
    """Delete the job of an earlier prompt with an id, which has ended."""
    with suppress(LookupError):
        record = here.engine.get(id)
        if record.owner != owner or record.status not in FINISHED:
            message = "a prompt with this prompt_id is in the queue"
            raise Refused(Validated(error=Problem("invalid_prompt_id", id, message=message)))
        here.engine.delete(id)


def told(here: ComfyUI, owner: str) -> None:
    """Tell all clients of an owner how many prompts wait or run."""
    here.prompts.status(owner, here.engine.count_posted(owner, UNFINISHED))


def number(record: JobRecord) -> float:
    """The number of a prompt: that of the smallest is next."""
    place = record.place or 0.0
    return int(place) if place == round(place) else place


def five(record: JobRecord) -> list[Any]:
    """A prompt as the queue and the history have it."""
    request = record.request
    return [number(record), record.id, request["prompt"], request.get("extra_data") or {}, request.get("targets") or []]


async def show(request: web.Request) -> web.Response:
    """The prompts that run, and those that wait, in the order in which they will run."""
    here, owner = comfyui_of(request), request[OWNER]
    running = await in_thread(in_the_works, here, owner)
    waiting = await in_thread(here.engine.posted, owner, WAITING)
    ordered = sorted(waiting, key=lambda record: (-record.priority, record.place or 0.0))
    return plain({"queue_running": [five(each) for each in running], "queue_pending": [five(each) for each in ordered]})


def in_the_works(here: ComfyUI, owner: str) -> list[JobRecord]:
    """The prompts that run; one that is interrupted is among them until the history has it.

    Those of comfy-api-proxy, which have one id as prompts and as clients, stay a moment longer: the proxy asks for the
    history first and for the queue after that, and takes a prompt that ends in between for one that is lost.
    """
    found = {record.id: record for record in here.engine.posted(owner, ["running"])}
    for id, run in list(here.prompts.running.items()):
        if id not in found and run.record.owner == owner:
            with suppress(LookupError):
                record = here.engine.get(id)
                if record.status == "cancelled" and record.shown is None:
                    found[id] = record
    since = time.time() - LINGERING
    for record in here.engine.posted(owner, FINISHED, limit=MOST_LINGERING, latest=True):
        if record.client == record.id and (record.ended or 0.0) > since:
            found[record.id] = record
    return list(found.values())


async def change(request: web.Request) -> web.Response:
    """Take prompts out of the queue."""
    here, owner = comfyui_of(request), request[OWNER]
    try:
        clear, ids = cleared(await body_of(request))
    except ValueError as error:
        return _refused("invalid_request", str(error))

    def taken_out() -> None:
        if clear:
            take_out(here, [record.id for record in here.engine.posted(owner, WAITING)], owner)
        take_out(here, ids, owner)
        told(here, owner)

    await in_thread(taken_out)
    return web.Response()


def take_out(here: ComfyUI, ids: Sequence[str], owner: str) -> list[str]:
    """Delete prompts that wait; returns those that were there."""
    found: list[str] = []
    for id in ids:
        with suppress(LookupError, WrongState):
            record = here.engine.get(str(id))
            if record.owner == owner and record.client is not None and record.status in WAITING:
                here.engine.delete(record.id)
                found.append(record.id)
    return found


async def interrupt(request: web.Request) -> web.Response:
    """End the prompts that run, or the one that is named."""
    here, owner = comfyui_of(request), request[OWNER]
    try:
        body = await body_of(request)
    except ValueError:
        body = None
    id = body.get("prompt_id") if isinstance(body, Mapping) else None

    def ended() -> None:
        for record in here.engine.posted(owner, ["running"]):
            if id is None or record.id == id:
                with suppress(LookupError, WrongState):
                    here.engine.cancel(record.id)

    await in_thread(ended)
    return web.Response()


async def free(request: web.Request) -> web.Response:
    """Drop loaded models, and results that are kept."""
    here = comfyui_of(request)
    try:
        body = await body_of(request)
    except ValueError:
        body = None
    if isinstance(body, Mapping):
        if body.get("free_memory"):
            here.prompts.forget()
        if body.get("unload_models") or body.get("free_memory"):
            await in_thread(here.engine.unload)
    return web.Response()


def _refused(kind: str, message: str) -> web.Response:
    error = {"type": kind, "message": message, "details": message, "extra_info": {}}
    return plain({"error": error, "node_errors": {}}, 400)


def routes() -> list[web.RouteDef]:
    """The routes of the queue."""
    return [
        web.get("/prompt", count),
        web.post("/prompt", post),
        web.get("/queue", show),
        web.post("/queue", change),
        web.post("/interrupt", interrupt),
        web.post("/free", free),
    ]
