"""Comfy API v2 in the server's application: its routes, and what it keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

from aiohttp import web

from sigmafield.serve.comfyui.folders import Directories
from sigmafield.serve.comfyui.v2 import assets, jobs
from sigmafield.serve.comfyui.v2.errors import name_request
from sigmafield.serve.comfyui.v2.events import STREAMS
from sigmafield.serve.comfyui.v2.records import Records

FILE = "comfy-api-v2.sqlite"
"""The file of records, in the base directory."""


def add_v2(app: web.Application, here: Directories) -> None:
    """Add the protocol to an application.

    Args:
        app: The application, which has ComfyUI's protocol.
        here: Where files are.
    """
    app.router.add_routes([*jobs.routes(), *assets.routes()])
    app.on_response_prepare.append(name_request)
    app[STREAMS] = Counter()

    async def alongside(app: web.Application) -> AsyncIterator[None]:
        records = app[assets.RECORDS] = Records(here.base / FILE)
        yield
        records.close()

    app.cleanup_ctx.append(alongside)
