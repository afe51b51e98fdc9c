"""Routes of the pages for people: files that are part of the package, read when the server starts."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from importlib.resources import files

from aiohttp import web

from sigmafield.serve.comfyui.context import COMFYUI

NO_FRONTEND = (
    '<p class="hint">ComfyUI\'s page would be here, and this one at <a href="/sigmafield/">/sigmafield/</a>: '
    "<code>pip install comfyui-frontend-package</code> and start the server again.</p>"
)
"""What the page says where ComfyUI's protocol is served and its page is not installed."""

FILES = web.AppKey("files", Mapping[str, bytes])


def page_files() -> dict[str, bytes]:
    """The files of the pages, by name."""
    folder = files("sigmafield.serve") / "page"
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}


async def index(request: web.Request) -> web.Response:
    """The page of the queue and its images; it says how to get ComfyUI's page where that is wanted and not there."""
    answer = _file(request, "index.html")
    here = request.app.get(COMFYUI)
    if here is not None and here.frontend is None and answer.text is not None:
        answer.text = answer.text.replace("<main>", f"{NO_FRONTEND}<main>", 1)
    return answer


async def docs(request: web.Request) -> web.Response:
    """The page that shows the OpenAPI document."""
    return _file(request, "docs.html")


async def asset(request: web.Request) -> web.Response:
    """A file that the pages use."""
    return _file(request, request.match_info["name"])


def _file(request: web.Request, name: str) -> web.Response:
    data = request.app[FILES].get(name)
    if data is None:
        raise web.HTTPNotFound(text=f"no page {name[:100]!r}")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return web.Response(body=data, content_type=kind, charset="utf-8" if kind.startswith("text/") else None)
