"""The application: its routes, and what runs next to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from aiohttp import web

from sigmafield.serve.comfyui.app import OPEN, add_comfyui
from sigmafield.serve.comfyui.compression import compressed
from sigmafield.serve.comfyui.context import ComfyUI
from sigmafield.serve.comfyui.folders import make_directories, tidy_temp
from sigmafield.serve.comfyui.frontend_files import find_frontend
from sigmafield.serve.comfyui.guard import browsers
from sigmafield.serve.comfyui.settings import ComfyUISettings
from sigmafield.serve.comfyui.socket import Clients
from sigmafield.serve.comfyui.v2.errors import v2_errors
from sigmafield.serve.engine import Engine
from sigmafield.serve.http import jobs, metrics, openapi, page
from sigmafield.serve.http.context import SERVER, Server
from sigmafield.serve.http.errors import errors
from sigmafield.serve.http.feed import Feed
from sigmafield.serve.http.routes import ROUTES
from sigmafield.serve.http.security import add_headers, guard
from sigmafield.serve.http.settings import HttpSettings
from sigmafield.serve.http.webhooks import Webhooks
from sigmafield.serve.jobs import UNFINISHED, JobRecord
from sigmafield.serve.limits import MIB
from sigmafield.serve.names import ModelNames
from sigmafield.serve.requests import Requests
from sigmafield.serve.uploads import Uploads

OWN_PAGE = "/sigmafield/"
"""Where our page is as well where ComfyUI's protocol is served."""

TIDY = 600.0
"""Seconds between two looks for old uploads and previews."""


def make_app(
    engine: Engine, settings: HttpSettings, folder: Path, comfyui: ComfyUISettings | None = None
) -> web.Application:
    """The HTTP interface of an engine, which has to be started and is not stopped.

    Args:
        engine: Runs the jobs.
        settings: Whom the server answers, and how much a request may ask for.
        folder: Where uploads are kept; the engine's is fine.
        comfyui: How ComfyUI's protocol is served, by an engine that was made for it; None does not serve it.

    Raises:
        ValueError: Two models have the same name.
    """
    requests = requests_of(engine.settings.models, settings, folder)
    registry = metrics.registry_of(engine)
    times = metrics.job_times(registry)
    here = None if comfyui is None else comfyui_here(engine, settings, folder, comfyui)
    page_is_ours = here is None or here.frontend is None
    free = {route.path for route in ROUTES if route.open and (route.path != "/" or page_is_ours)}
    app = web.Application(
        middlewares=[
            metrics.measured(registry),
            compressed(comfyui is not None and comfyui.enable_compress_response_body),
            browsers(here is not None),
            errors,
            v2_errors,
            guard(settings, free | {OWN_PAGE, *OPEN} if here else free),
        ],
        client_max_size=settings.limits.max_body * MIB,
    )
    app[metrics.REGISTRY] = registry
    app[page.FILES] = page.page_files()
    app[openapi.DOCUMENT] = openapi.document(ROUTES, requests.names.default, settings.limits, bool(settings.tokens))
    app.on_response_prepare.append(add_headers(settings))

    async def alongside(app: web.Application) -> AsyncIterator[None]:
        feed = Feed(engine)
        webhooks = Webhooks(
            folder / "webhooks", engine, lambda record: jobs.public(server, record), settings.private_webhooks
        )
        server = app[SERVER] = Server(engine, settings, requests, feed, webhooks)
        await webhooks.open()
        tasks = [asyncio.create_task(ended(server, times)), asyncio.create_task(tidy(server, here))]
        yield
        feed.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await webhooks.close()

    async def closing(app: web.Application) -> None:
        app[SERVER].feed.close()  # streams and blocking requests end, so that their connections do

    app.cleanup_ctx.append(alongside)
    app.on_shutdown.append(closing)
    for route in ROUTES:
        if route.path == "/" and not page_is_ours:
            continue
        app.router.add_route(route.method, route.path, route.handle)
        if route.open:
            app.router.add_route("HEAD", route.path, route.handle)
    if here is not None:
        app.router.add_get(OWN_PAGE, page.index)
        add_comfyui(app, here)
    return app


def comfyui_here(engine: Engine, settings: HttpSettings, folder: Path, comfyui: ComfyUISettings) -> ComfyUI:
    """What the handlers of ComfyUI's routes share; ValueError for an engine that was made without them."""
    prompts = engine.workflows.prompts
    if prompts is None:
        raise ValueError("ComfyUI's protocol needs an engine that was made for it, see make_engine")
    directories = make_directories(comfyui.files, folder, settings.model_folder)
    page_files = find_frontend(comfyui.front_end_root)
    return ComfyUI(engine, prompts, Clients(), directories, comfyui, page_files, settings.limits.max_body)


def requests_of(models: Sequence[str], settings: HttpSettings, folder: Path) -> Requests:
    """What translates between the clients of a server and its engine; arguments and errors as for `make_app`."""
    names = ModelNames.of(models, settings.model_folder)
    return Requests(names, Uploads(uploads_in(folder), settings.limits), settings.limits, settings.input_folder)


def uploads_in(folder: Path) -> Path:
    """Where a server's uploads are, in its folder."""
    return folder.resolve() / "uploads"


async def ended(server: Server, note: Callable[[JobRecord], None]) -> None:
    """Note each job that ends, and send its webhook, until the task is cancelled."""
    async for record in server.feed.ended():
        note(record)
        server.webhooks.send(record)


async def tidy(server: Server, here: ComfyUI | None) -> None:
    """Delete old uploads and previews, now and then, until the task is cancelled."""
    while True:
        await asyncio.to_thread(_tidied, server, here)
        await asyncio.sleep(TIDY)


def _tidied(server: Server, here: ComfyUI | None) -> None:
    jobs = (job for status in UNFINISHED for job in server.engine.list(status=status, limit=10**9))
    texts = [json.dumps(job.request) for job in jobs]

    def used(name: str) -> bool:
        return any(name in text for text in texts)

    server.requests.uploads.tidy(used)
    if here is not None:
        tidy_temp(here.directories.temp, used)
