"""Routes of ComfyUI's page: its files, templates and documentation, read where their packages are installed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from aiohttp import web

from sigmafield.serve.comfyui import userdata
from sigmafield.serve.comfyui.answers import plain
from sigmafield.serve.comfyui.context import comfyui_of
from sigmafield.serve.comfyui.folders import inside
from sigmafield.serve.comfyui.frontend_files import INDEX, Frontend
from sigmafield.serve.http.context import in_thread

TYPES = {
    ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".wasm": "application/wasm",
    ".webp": "image/webp", ".woff2": "font/woff2", ".json": "application/json", ".html": "text/html",
    ".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".ico": "image/x-icon",
    ".gif": "image/gif", ".md": "text/markdown", ".mp4": "video/mp4", ".webm": "video/webm", ".mp3": "audio/mpeg",
    ".cur": "image/x-icon", ".ttf": "font/ttf", ".map": "application/json", ".txt": "text/plain",
}  # fmt: skip
"""Types of files by their endings; those of the system's registry are wrong on some systems."""

IMAGES = (".webp", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".ico", ".mp4", ".webm")
NEVER = {"Cache-Control": "no-store, must-revalidate", "Pragma": "no-cache", "Expires": "0"}

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' ws: wss: data: blob:; frame-src 'self'; worker-src 'self' blob:; object-src 'self'; "
    "base-uri 'self'; frame-ancestors 'self'"
)
"""What the page may load: files of this server alone."""


def file_of(path: Path, headers: Mapping[str, str] = {}) -> web.FileResponse:
    """A file of the page or of its packages."""
    ending = path.suffix.lower()
    kind = TYPES.get(ending, "application/octet-stream")
    cached = "public, max-age=86400" if ending in IMAGES else "no-cache"
    return web.FileResponse(path, headers={"Content-Type": kind, "Cache-Control": cached, **headers})


def _page(request: web.Request) -> Frontend:
    page = comfyui_of(request).frontend
    if page is None:
        raise web.HTTPNotFound(text="ComfyUI's page is not installed: pip install comfyui-frontend-package")
    return page


async def index(request: web.Request) -> web.FileResponse:
    """ComfyUI's page."""
    return file_of(_page(request).root / INDEX, {**NEVER, "Content-Security-Policy": POLICY})


async def asset(request: web.Request) -> web.StreamResponse:
    """A file of ComfyUI's page."""
    return await _below(_page(request).root, request.match_info["path"])


async def documentation(request: web.Request) -> web.StreamResponse:
    """A page about a node class."""
    docs = _page(request).docs
    return web.Response(status=404) if docs is None else await _below(docs, request.match_info["path"])


async def _below(root: Path, name: str) -> web.StreamResponse:
    try:
        path = inside(root, *name.split("/"))
    except ValueError:
        return web.Response(status=404)
    if not await in_thread(path.is_file):
        kept = "public, max-age=3600" if path.suffix.lower() in IMAGES else "no-cache"
        return web.Response(status=404, headers={"Cache-Control": kept})
    return file_of(path, {"Content-Security-Policy": POLICY} if path.suffix == ".html" else {})


async def template(request: web.Request) -> web.StreamResponse:
    """A file of the templates, or their index, which has no entries without their package."""
    page = comfyui_of(request).frontend
    name = request.match_info["name"]
    known = page.templates if page is not None else {}
    if name.startswith("index.") and name.endswith(".json"):
        found = known.get(name) or known.get("index.json")
        return plain([]) if found is None else file_of(found)
    return file_of(known[name]) if name in known else web.Response(status=404)


async def extensions(request: web.Request) -> web.Response:
    """Addresses of the scripts that the page loads in addition: it has its own, and there are no others."""
    page = comfyui_of(request).frontend
    if page is None:
        return plain([])
    root = page.root
    found = sorted((root / "extensions").rglob("*.js")) if (root / "extensions").is_dir() else []
    return plain([f"/{path.relative_to(root).as_posix()}" for path in found])


async def style(request: web.Request) -> web.StreamResponse:
    """The user's style sheet; an empty one if there is none, so that the page has nothing to complain of."""
    answer = await userdata.show(request)
    return web.Response(content_type="text/css", charset="utf-8") if answer.status == 404 else answer


async def node_templates(request: web.Request) -> web.StreamResponse:
    """The user's templates of nodes; an empty list if there are none."""
    answer = await userdata.show(request)
    return plain([]) if answer.status == 404 else answer


def routes() -> list[web.RouteDef]:
    """The routes that have a form with /api."""
    return [
        web.get("/extensions", extensions),
        web.get("/user.css", style),
        web.get(r"/userdata/{file:user\.css}", style),
        web.get(r"/userdata/{file:comfy\.templates\.json}", node_templates),
    ]


async def icon(request: web.Request) -> web.Response:
    """An icon for the browser's tab, which ComfyUI's page has not got in all versions."""
    data = (files("sigmafield.serve") / "page" / "icon.svg").read_bytes()
    return web.Response(body=data, content_type="image/svg+xml", headers={"Cache-Control": "public, max-age=86400"})


def static_routes() -> list[web.RouteDef]:
    """The routes that do not, in the order in which they are tried."""
    return [
        web.get("/favicon.ico", icon),
        web.get("/templates/{name}", template),
        web.get("/docs/{path:.+}", documentation),
        web.get("/{path:(?:assets|scripts|extensions|fonts|cursor)/.+}", asset),
        web.get(r"/{path:[\w-][\w.-]*\.[A-Za-z0-9]+}", asset),
    ]
