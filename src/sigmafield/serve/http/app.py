"""The application: its routes, and what runs beside them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from sigmafield.serve.engine import Engine
from sigmafield.serve.http import catalogue, events, health, jobs, metrics, openai, openapi, outputs, page, uploads
from sigmafield.serve.http.context import SERVER, Server
from sigmafield.serve.http.errors import errors
from sigmafield.serve.http.feed import Feed
from sigmafield.serve.http.security import add_headers, guard
from sigmafield.serve.http.settings import HttpSettings
from sigmafield.serve.http.webhooks import Webhooks
from sigmafield.serve.jobs import FINISHED
from sigmafield.serve.limits import MIB
from sigmafield.serve.names import ModelNames
from sigmafield.serve.requests import IMAGES, Requests
from sigmafield.serve.uploads import Uploads

TIDY = 600.0
"""Seconds between two looks for old uploads."""


def make_app(engine: Engine, settings: HttpSettings, folder: Path) -> web.Application:
    """The HTTP interface of an engine, which has to be started and is not stopped.

    Args:
        engine: Runs the jobs.
        settings: Whom the server answers, and how much a request may ask for.
        folder: Where uploads are kept; the engine's is fine.

    Raises:
        ValueError: Two models have the same name.
    """
    names = ModelNames.of(engine.settings.models, settings.model_folder)
    requests = Requests(names, Uploads(folder / "uploads", settings.limits), settings.limits, settings.input_folder)
    registry = metrics.registry_of(engine)
    app = web.Application(
        middlewares=[metrics.measured(registry), errors, guard(settings)],
        client_max_size=settings.limits.max_body * MIB,
    )
    app[metrics.REGISTRY] = registry
    app[page.FILES] = page.page_files()
    app[openapi.DOCUMENT] = openapi.document(names.default)
    app.on_response_prepare.append(add_headers(settings))

    async def beside(app: web.Application) -> AsyncIterator[None]:
        feed = Feed(engine)
        server = app[SERVER] = Server(engine, settings, requests, feed)
        sender = Webhooks(engine, feed, lambda record: jobs.public(server, record), settings.private_webhooks)
        tasks = [asyncio.create_task(sender.run()), asyncio.create_task(tidy(server))]
        yield
        feed.close()
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def closing(app: web.Application) -> None:
        app[SERVER].feed.close()  # streams and blocking requests end, so that their connections do

    app.cleanup_ctx.append(beside)
    app.on_shutdown.append(closing)
    app.add_routes(ROUTES)
    return app


async def tidy(server: Server) -> None:
    """Delete old uploads, now and then, until the task is cancelled."""
    while True:
        await asyncio.to_thread(_tidied, server)
        await asyncio.sleep(TIDY)


def _tidied(server: Server) -> None:
    kept = [job for job in server.engine.list(limit=10**9) if job.status not in FINISHED and job.kind == "recipe"]
    used = {str(job.request.get(name)) for job in kept for name in IMAGES}
    used |= {str(control["image"]) for job in kept for control in job.request.get("controls", ())}
    server.requests.uploads.tidy(used)


ROUTES = [
    web.get("/", page.index),
    web.get("/docs", page.docs),
    web.get("/page/{name}", page.asset),
    web.get("/openapi.json", openapi.show),
    web.get("/healthz", health.alive),
    web.get("/readyz", health.ready),
    web.get("/metrics", metrics.show),
    web.post("/v1/jobs", jobs.create),
    web.get("/v1/jobs", jobs.index),
    web.get("/v1/jobs/{id}", jobs.show),
    web.delete("/v1/jobs/{id}", jobs.delete),
    web.post("/v1/jobs/{id}/pause", jobs.pause),
    web.post("/v1/jobs/{id}/resume", jobs.resume),
    web.post("/v1/jobs/{id}/cancel", jobs.cancel),
    web.post("/v1/jobs/{id}/priority", jobs.prioritise),
    web.post("/v1/jobs/{id}/clone", jobs.clone),
    web.get("/v1/jobs/{id}/events", events.of_job),
    web.get("/v1/jobs/{id}/outputs/{n}", outputs.output),
    web.get("/v1/jobs/{id}/preview", outputs.preview),
    web.get("/v1/events", events.of_all),
    web.post("/v1/uploads", uploads.create),
    web.delete("/v1/uploads/{id}", uploads.delete),
    web.get("/v1/models", catalogue.models),
    web.get("/v1/samplers", catalogue.samplers),
    web.get("/v1/schedules", catalogue.schedules),
    web.get("/v1/guidance", catalogue.guidance),
    web.post("/v1/generate", jobs.generate),
    web.post("/v1/images/generations", openai.generations),
    web.post("/v1/images/edits", openai.edits),
]
"""All routes."""
