"""Routes of ComfyUI's list of jobs: prompts that wait, run or have ended, in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from aiohttp import web

from sigmafield.serve.comfyui.answers import body_of, plain, refused
from sigmafield.serve.comfyui.context import ComfyUI, comfyui_of
from sigmafield.serve.comfyui.history import entry
from sigmafield.serve.comfyui.prompts import is_uuid, number, take_out, told
from sigmafield.serve.http.context import OWNER, in_thread
from sigmafield.serve.jobs import JobRecord, Status, WrongState

BY_STATUS: Mapping[str, Sequence[Status]] = {
    "pending": ("queued", "paused"), "in_progress": ("running",), "completed": ("done",), "failed": ("failed",),
    "cancelled": ("cancelled",),
}  # fmt: skip
"""The engine's statuses by those of ComfyUI."""

MEDIA = ("images", "video", "audio", "3d", "gifs")
MODELS = (".obj", ".fbx", ".gltf", ".glb")
TEXTS = (".txt", ".md", ".json")
LONGEST_TEXT = 1024
"""Characters of a text in a preview."""


def status_of(record: JobRecord) -> str:
    """ComfyUI's status of a prompt."""
    return next(name for name, each in BY_STATUS.items() if record.status in each)


def described(record: JobRecord) -> dict[str, Any]:
    """A prompt as the list has it; entries without a value are left out."""
    extra: Mapping[str, Any] = record.request.get("extra_data") or {}
    status = status_of(record)
    found: dict[str, Any] = {}
    if status in ("completed", "failed", "cancelled"):
        shown = entry(record)
        messages = dict(shown["status"]["messages"])
        outputs = shown["outputs"]
        begun, error = messages.get("execution_start"), messages.get("execution_error")
        last = list(messages.values())[-1] if messages else None
        found = {
            "execution_start_time": begun["timestamp"] if begun else None,
            "execution_end_time": last["timestamp"] if last else None,
            "execution_error": error,
            "outputs_count": sum(len(_items(ui)) for ui in outputs.values()),
            "previewable_outputs_count": len(previewable(outputs)),
            "preview_output": preview_of(outputs),
        }
    elif status == "in_progress" and record.started is not None:
        found = {"execution_start_time": round(record.started * 1000), "outputs_count": 0}
    workflow = (extra.get("extra_pnginfo") or {}).get("workflow")
    made = {
        "id": record.id, "status": status, "priority": number(record),
        "create_time": extra.get("create_time", round(record.created * 1000)), "outputs_count": 0, **found,
        "workflow_id": workflow.get("id") if isinstance(workflow, Mapping) else None,
    }  # fmt: skip
    return {name: value for name, value in made.items() if value is not None}


def _items(ui: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The files that a node shows, each with the kind under which it does."""
    lists = ((kind, items) for kind, items in ui.items() if isinstance(items, list))
    return [(kind, item) for kind, items in lists for item in items if isinstance(item, Mapping) and "filename" in item]


def previewable(outputs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What can stand for a prompt: saved media, other media, saved texts, then texts themselves."""
    ranked: list[tuple[int, dict[str, Any]]] = []
    for node, ui in outputs.items():
        for kind, item in _items(ui):
            name = str(item["filename"]).lower()
            media = (
                kind in MEDIA or str(item.get("format", "")).startswith(("video/", "audio/")) or name.endswith(MODELS)
            )
            if media or name.endswith(TEXTS):
                saved = item.get("type", "output") == "output"
                file = {"filename": item["filename"], "subfolder": item.get("subfolder", "")}
                about = {**file, "type": item.get("type", "output"), "nodeId": node, "mediaType": kind}
                ranked.append((0 if media and saved else 1 if media else 2, about))
        for text in ui.get("text") or ():
            if isinstance(text, str):
                cut = {"truncated": True} if len(text) > LONGEST_TEXT else {}
                ranked.append((3, {"content": text[:LONGEST_TEXT], **cut, "nodeId": node, "mediaType": "text"}))
    return [each for _, each in sorted(ranked, key=lambda pair: pair[0])]


def preview_of(outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The file that stands for a prompt; None without one. A text does not: the page 1.38 refuses a list with one."""
    return next((each for each in previewable(outputs) if "filename" in each), None)


async def index(request: web.Request) -> web.Response:
    """A part of all prompts, sorted."""
    query = request.query
    names = [name for name in query.get("status", ",".join(BY_STATUS)).split(",") if name.strip()]
    names = [name.strip().lower() for name in names]
    if wrong := [name for name in names if name not in BY_STATUS]:
        return refused(f"Invalid status value(s): {', '.join(wrong)}. Valid values: {', '.join(BY_STATUS)}")
    by, order = query.get("sort_by", "created_at"), query.get("sort_order", "desc")
    if by not in ("created_at", "execution_duration"):
        return refused("sort_by must be 'created_at' or 'execution_duration'")
    if order not in ("asc", "desc"):
        return refused("sort_order must be 'asc' or 'desc'")
    limit, offset = query.get("limit"), query.get("offset", "0")
    if limit is not None and not (limit.isdecimal() and 0 < int(limit) < 2**31):
        return refused("limit must be a positive integer")
    if not (offset.isdecimal() and int(offset) < 2**31):
        return refused("offset must be a non-negative integer")
    jobs, total = await in_thread(
        listed, comfyui_of(request), request[OWNER], [each for name in names for each in BY_STATUS[name]],
        query.get("workflow_id"), by, order == "desc", None if limit is None else int(limit), int(offset),
    )  # fmt: skip
    more = int(offset) + len(jobs) < total
    page = {"offset": int(offset), "limit": None if limit is None else int(limit), "total": total, "has_more": more}
    return plain({"jobs": jobs, "pagination": page})


def listed(
    here: ComfyUI, owner: str, statuses: Sequence[Status], workflow: str | None, by: str, latest: bool,
    limit: int | None, offset: int,
) -> tuple[list[dict[str, Any]], int]:  # fmt: skip
    """(a part of the prompts, how many there are); arguments as the query has them."""
    if workflow is None and by == "created_at":
        total = here.engine.count_posted(owner, statuses)
        most = -1 if limit is None else limit
        found = here.engine.posted(owner, statuses, limit=most, offset=offset, latest=latest)
        return [described(each) for each in found], total
    jobs = [described(each) for each in here.engine.posted(owner, statuses, latest=latest)]
    jobs = [each for each in jobs if workflow is None or each.get("workflow_id") == workflow]
    if by == "execution_duration":
        jobs.sort(key=_duration, reverse=latest)
    return jobs[offset:][:limit], len(jobs)


def _duration(job: Mapping[str, Any]) -> float:
    return job.get("execution_end_time", 0) - job.get("execution_start_time", 0)


def found_job(here: ComfyUI, id: str, owner: str) -> JobRecord:
    """A prompt of an owner. LookupError if there is none with this id."""
    record = here.engine.get(id)
    known = record.client is not None and (record.status != "cancelled" or record.shown is not None)
    if record.owner != owner or not known:
        raise LookupError(id)
    return record


async def show(request: web.Request) -> web.Response:
    """One prompt, with its nodes and outputs."""
    try:
        record = await in_thread(found_job, comfyui_of(request), request.match_info["id"], request[OWNER])
    except LookupError:
        return refused("Job not found", 404)
    made = described(record)
    sent = {"prompt": record.request["prompt"], "extra_data": record.request.get("extra_data") or {}}
    if status_of(record) in ("pending", "in_progress"):
        return plain({**made, "workflow": sent})
    shown = entry(record)
    return plain({**made, "outputs": shown["outputs"], "execution_status": shown["status"], "workflow": sent})


async def cancel(request: web.Request) -> web.Response:
    """Interrupt a prompt, or take it out of the queue."""
    found = await in_thread(cancelled, comfyui_of(request), [request.match_info["id"]], request[OWNER])
    return plain({"cancelled": found})


async def cancel_all(request: web.Request) -> web.Response:
    """Interrupt prompts, or take them out of the queue."""
    try:
        body = await body_of(request)
    except ValueError as error:
        return refused(str(error))
    ids = body.get("job_ids") if isinstance(body, Mapping) else None
    if not isinstance(ids, list):
        return refused("job_ids must be a list")
    ids = cast("list[Any]", ids)
    if wrong := [id for id in ids if not is_uuid(id)]:
        return plain({"error": "job_ids must be UUIDs", "invalid_ids": wrong}, 400)
    return plain({"cancelled": await in_thread(cancelled, comfyui_of(request), ids, request[OWNER])})


def cancelled(here: ComfyUI, ids: Sequence[str], owner: str) -> bool:
    """Interrupt prompts, or take them out of the queue; whether there was one that waited or ran."""
    if found := bool(take_out(here, ids, owner)):
        told(here, owner)
    for id in ids:
        try:
            if found_job(here, id, owner).status == "running":
                here.engine.cancel(id)
                found = True
        except (LookupError, WrongState):
            continue
    return found


def routes() -> list[web.RouteDef]:
    """The routes of the list of jobs, which have no form without /api."""
    return [
        web.get("/api/jobs", index),
        web.get("/api/jobs/{id}", show),
        web.post("/api/jobs/cancel", cancel_all),
        web.post("/api/jobs/{id}/cancel", cancel),
    ]
