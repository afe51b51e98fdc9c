"""Routes that say whether the server runs, and whether it takes jobs."""

from __future__ import annotations

from aiohttp import web

from sigmafield.serve.http.context import in_thread, server_of
from sigmafield.serve.http.errors import failed


async def alive(request: web.Request) -> web.Response:
    """The process answers."""
    return web.json_response({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """Models are loaded, jobs are run, and their store can be read."""
    server = server_of(request)
    if server.feed.closing or not server.engine.running:
        why = "is shutting down" if server.feed.closing else "loads its models"
        return failed(503, f"the server {why}", headers={"Retry-After": "5"})
    return web.json_response({"status": "ok", "jobs": await in_thread(server.engine.counts)})
