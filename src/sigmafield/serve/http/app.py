"""The application: its routes, and what runs beside them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from sigmafield.serve.engine import Engine
from sigmafield.serve.http import jobs, metrics, openapi, page
from sigmafield.serve.http.context import SERVER, Server
from sigmafield.serve.http.errors import errors
from sigmafield.serve.http.feed import Feed
from sigmafield.serve.http.routes import ROUTES
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
        middlewares=[metrics.measured(registry), errors, guard(settings, {route.path for route in ROUTES if route.open})],
        client_max_size=settings.limits.max_body * MIB,
    )
    app[metrics.REGISTRY] = registry
    app[page.FILES] = page.page_files()
    app[openapi.DOCUMENT] = openapi.document(ROUTES, names.default, settings.limits, bool(settings.tokens))
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
    app.add_routes([web.route(route.method, route.path, route.handle) for route in ROUTES])
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
