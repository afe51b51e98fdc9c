"""All routes of the server, with what the OpenAPI document says about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sigmafield.serve.http import catalogue, events, health, jobs, metrics, openai, openapi, outputs, page, uploads
from sigmafield.serve.http.bodies import Clone, NewJob, NewPriority
from sigmafield.serve.http.openai import Generation
from sigmafield.serve.http.route import BYTES, EVENTS, HTML, IMAGE, JSON, TEXT, Answer, Route
from sigmafield.serve.jobs import STATUSES


def ref(name: str) -> dict[str, Any]:
    """A schema of the document's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def listed(name: str) -> dict[str, Any]:
    """A list of one of the document's components."""
    return {"type": "array", "items": ref(name)}


def holding(**entries: Mapping[str, Any]) -> dict[str, Any]:
    """An object with these entries."""
    return {"type": "object", "properties": entries, "required": list(entries)}


JOB = {200: Answer("The job as it is now.", schema=ref("Job"))}
QUEUED = {202: Answer("The job, which waits for its turn; Location is its address.", schema=ref("Job"))}
IMAGES = {200: Answer("The images.", schema=ref("Images"))}
ID = {"type": "string", "description": "A job's id."}
KEY = {
    "Idempotency-Key": {
        "type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$",
        "description": "The same key with the same body gives the job that was made first.",
    }
}  # fmt: skip
LAST = {
    "Last-Event-ID": {
        "type": "string", "pattern": "^[0-9]{1,18}$", "description": "The last event that the client has.",
    }
}  # fmt: skip
LIST = {
    "status": {"enum": list(STATUSES), "description": "Only jobs that have it."},
    "limit": {"type": "integer", "minimum": 1, "maximum": jobs.MOST_LISTED, "default": 100},
    "before": {"type": "string", "description": "Only jobs that were submitted before the one with this id."},
}
PREVIEWS = {"previews": {"enum": ["0", "1"], "description": "Whether steps carry previews, as data URLs."}}
FILE = {"type": "string", "contentMediaType": "application/octet-stream"}

ROUTES = [
    Route("POST", "/v1/jobs", jobs.create, QUEUED, NewJob, headers=KEY),
    Route(
        "GET", "/v1/jobs", jobs.index, {200: Answer("The latest jobs.", schema=holding(jobs=listed("Job")))}, query=LIST
    ),
    Route("GET", "/v1/jobs/{id}", jobs.show, JOB),
    Route("DELETE", "/v1/jobs/{id}", jobs.delete, {204: Answer("It is deleted.", None)}),
    Route("POST", "/v1/jobs/{id}/pause", jobs.pause, JOB),
    Route("POST", "/v1/jobs/{id}/resume", jobs.resume, JOB),
    Route("POST", "/v1/jobs/{id}/cancel", jobs.cancel, JOB),
    Route("POST", "/v1/jobs/{id}/priority", jobs.prioritise, JOB, NewPriority),
    Route("POST", "/v1/jobs/{id}/clone", jobs.clone, QUEUED, Clone),
    Route(
        "GET", "/v1/jobs/{id}/events", events.of_job,
        {
            200: Answer("Events: queued, started, step, paused, resumed, priority, done, failed, cancelled.", EVENTS),
            204: Answer("The job has ended, and the client has all events.", None),
        },
        query={**PREVIEWS, "after": {"type": "integer", "minimum": 0, "description": "As Last-Event-ID."}},
        headers=LAST,
    ),
    Route("GET", "/v1/jobs/{id}/outputs/{n}", outputs.output, {200: Answer("The file.", IMAGE)}),
    Route(
        "GET", "/v1/jobs/{id}/preview", outputs.preview,
        {200: Answer("A JPEG.", "image/jpeg"), 204: Answer("No preview yet.", None)},
    ),
    Route("GET", "/v1/jobs/{id}/paused", outputs.paused, {200: Answer("The file.", BYTES)}),
    Route("GET", "/v1/events", events.of_all, {200: Answer("Events of all jobs.", EVENTS)}, query=PREVIEWS),
    Route(
        "POST", "/v1/generate", jobs.generate,
        {
            200: Answer("The first image; the job, where JSON is accepted.", IMAGE),
            202: Answer("The job, which takes longer than a request may.", schema=ref("Job")),
        },
        NewJob, headers=KEY,
    ),
    Route(
        "POST", "/v1/uploads", uploads.create,
        {201: Answer("What a recipe names it by.", schema=ref("Upload"))}, form={"file": FILE},
    ),
    Route("DELETE", "/v1/uploads/{id}", uploads.delete, {204: Answer("It is deleted.", None)}),
    Route(
        "GET", "/v1/models", catalogue.models,
        {200: Answer("The models.", schema=holding(object={"const": "list"}, data=listed("Model")))},
    ),
    Route(
        "GET", "/v1/samplers", catalogue.samplers,
        {200: Answer("The samplers.", schema=holding(samplers=listed("Named")))},
    ),
    Route(
        "GET", "/v1/schedules", catalogue.schedules,
        {200: Answer("The schedules.", schema=holding(schedules=listed("Named")))},
    ),
    Route(
        "GET", "/v1/guidance", catalogue.guidance,
        {200: Answer("The mods.", schema=holding(guidance=listed("Named")))},
    ),
    Route("POST", "/v1/images/generations", openai.generations, IMAGES, Generation),
    Route("POST", "/v1/images/edits", openai.edits, IMAGES, Generation, form={"image": FILE, "mask": FILE}),
    Route("GET", "/metrics", metrics.show, {200: Answer("In Prometheus' text form.", TEXT)}),
    Route("GET", "/healthz", health.alive, {200: Answer("It runs.", JSON)}, open=True),
    Route("GET", "/readyz", health.ready, {200: Answer("It takes jobs.", JSON)}, open=True),
    Route("GET", "/openapi.json", openapi.show, {200: Answer("The document.", JSON)}, open=True),
    Route("GET", "/docs", page.docs, {200: Answer("A page for people.", HTML)}, open=True),
    Route("GET", "/", page.index, {200: Answer("A page for people.", HTML)}, open=True),
    Route("GET", "/page/{name}", page.asset, {200: Answer("The file.", "*/*")}, open=True),
]  # fmt: skip
"""All routes."""
