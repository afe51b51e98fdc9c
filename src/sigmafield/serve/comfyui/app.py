"""ComfyUI's protocol in the server's application: all routes, with and without /api, its socket, and its page at /."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from aiohttp import web

from sigmafield.serve.comfyui import (
    frontend,
    guard,
    history,
    internal,
    jobs,
    models,
    objects,
    preferences,
    prompts,
    system,
    uploads,
    userdata,
    users,
    view,
)
from sigmafield.serve.comfyui.context import COMFYUI, ComfyUI, comfyui_of
from sigmafield.serve.comfyui.owned import FILES
from sigmafield.serve.comfyui.v2.errors import BASE
from sigmafield.serve.comfyui.v2.protocol import add_v2
from sigmafield.serve.http.context import OWNER, in_thread
from sigmafield.serve.jobs import UNFINISHED

TABLES = (
    frontend, prompts, history, jobs, objects, system, view, uploads, models, userdata, users, preferences, internal,
)  # fmt: skip
"""Modules that have routes."""

PREFIX = "/api"

OPEN = (guard.SIGN_IN, "/sign-out", f"{BASE}/health")
"""Addresses that need no token."""


async def socket(request: web.Request) -> web.WebSocketResponse:
    """The socket of a client."""
    here, owner = comfyui_of(request), request[OWNER]
    id = request.query.get("clientId")
    mine = [run for run in here.prompts.running.values() if id and (run.record.owner, run.record.client) == (owner, id)]
    node = next((run.course.last for run in mine if run.course.last is not None), None)
    remaining = await in_thread(here.engine.count_posted, owner, UNFINISHED)
    return await here.clients.serve(request, owner, remaining, node, here.features)


def all_routes() -> list[web.RouteDef]:
    """All routes of the protocol, each with and without /api unless it has it in any case."""
    plain = [web.get("/ws", socket), *(route for table in TABLES for route in table.routes())]
    aliases = [
        web.RouteDef(route.method, PREFIX + route.path, route.handler, route.kwargs)
        for route in plain
        if not route.path.startswith(f"{PREFIX}/")
    ]
    return [*plain, *aliases]


def add_comfyui(app: web.Application, here: ComfyUI) -> None:
    """Add ComfyUI's protocol to an application.

    Args:
        app: The application, which has the routes of our own.
        here: What the handlers share.
    """
    app[COMFYUI] = here
    app[FILES] = here.directories
    log = app[internal.LOG] = internal.Log(here.clients.log)
    app.router.add_routes([*all_routes(), *guard.routes()])
    add_v2(app, here.directories)
    if here.frontend is not None:
        app.router.add_routes([web.get("/", frontend.index), *frontend.static_routes()])

    async def alongside(app: web.Application) -> AsyncIterator[None]:
        here.clients.open()
        here.prompts.listen(here.clients.receive)
        logging.getLogger("sigmafield").addHandler(log)
        yield
        logging.getLogger("sigmafield").removeHandler(log)
        here.prompts.listen(None)

    async def closing(app: web.Application) -> None:
        here.clients.close()

    app.cleanup_ctx.append(alongside)
    app.on_shutdown.append(closing)
