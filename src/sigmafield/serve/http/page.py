"""Routes of the pages for people: files that are part of the package, read when the server starts."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from importlib.resources import files

from aiohttp import web

FILES = web.AppKey("files", Mapping[str, bytes])


def page_files() -> dict[str, bytes]:
    """The files of the pages, by name."""
    folder = files("sigmafield.serve") / "page"
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}


async def index(request: web.Request) -> web.Response:
    """The page of the queue and its images."""
    return _file(request, "index.html")


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
