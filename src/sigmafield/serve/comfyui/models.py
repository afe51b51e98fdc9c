"""Routes of models: which kinds there are, which files, and the images that go with them."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image

from sigmafield.comfyui.context import SUFFIXES
from sigmafield.serve.comfyui.answers import plain
from sigmafield.serve.comfyui.folders import Directories, inside
from sigmafield.serve.comfyui.owned import directories
from sigmafield.serve.comfyui.users import sees_all
from sigmafield.serve.comfyui.view import header_texts
from sigmafield.serve.http.context import in_thread

LISTED_APART = ("configs", "custom_nodes")
"""Kinds that the library of models does not show."""

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
"""Endings of images that lie next to a model."""

COVER = "modelspec.thumbnail"
"""The text in a safetensors file that is an image, as a data URL."""


async def kinds(request: web.Request) -> web.Response:
    """The kinds of models."""
    return plain(list(directories(request).models))


async def names(request: web.Request) -> web.Response:
    """The files of a kind of model."""
    here, kind = directories(request), request.match_info["folder"]
    if kind not in here.models:
        return web.Response(status=404)
    return plain(await in_thread(here.folders.names, kind))


async def library(request: web.Request) -> web.Response:
    """The kinds of models that the page's library shows, with their directories."""
    here = directories(request)
    shown = [kind for kind in here.models if kind not in LISTED_APART]
    return plain([{"name": kind, "folders": paths(request, here, kind)} for kind in shown])


def paths(request: web.Request, here: Directories, kind: str) -> list[str]:
    """The directories of a kind: whole paths for those who may see them, or else from the base directory on."""
    found = here.kind_of(kind)
    if sees_all(request):
        return [str(path) for path in found]
    return [str(path.relative_to(here.base)) if path.is_relative_to(here.base) else path.name for path in found]


async def files(request: web.Request) -> web.Response:
    """The files of a kind of model, with their sizes and times."""
    here, kind = directories(request), request.match_info["folder"]
    if kind not in here.models or kind in LISTED_APART:
        return web.Response(status=404)
    return plain(await in_thread(lambda: list(described(here, kind))))


def described(here: Directories, kind: str) -> Iterator[dict[str, Any]]:
    """The files of a kind, each as the library shows it."""
    for name in here.folders.names(kind):
        for index, root in enumerate(here.kind_of(kind)):
            if (path := root / name).is_file():
                at = path.stat()
                yield {"name": name, "pathIndex": index, "modified": at.st_mtime, "created": at.st_ctime,
                       "size": at.st_size}  # fmt: skip


async def preview(request: web.Request) -> web.Response:
    """An image of a model: one next to its file, or the one in it."""
    here, found = directories(request), request.match_info
    try:
        root = here.kind_of(found["folder"])[int(found["index"])]
        data = await in_thread(cover, inside(root, found["file"]))
    except (LookupError, ValueError):
        data = None
    if data is None:
        return web.Response(status=404)
    return web.Response(body=data, content_type="image/webp")


def cover(model: Path) -> bytes | None:
    """The image of a model as WebP; None without any.

    Raises:
        ValueError: The model's file is damaged.
    """
    if not model.is_file() or model.suffix.lower() not in SUFFIXES:
        return None
    stems = (model.stem, f"{model.stem}.preview")
    near = (model.with_name(stem + ending) for stem in stems for ending in IMAGES)
    source: Path | io.BytesIO | None = next((path for path in near if path.is_file()), None)
    if source is None:
        source = within(model)
    if source is None:
        return None
    data = io.BytesIO()
    try:
        with Image.open(source) as image:
            image.convert("RGBA").save(data, "WEBP")
    except (OSError, Image.DecompressionBombError):
        return None
    return data.getvalue()


def within(model: Path) -> io.BytesIO | None:
    """The image in a safetensors file."""
    texts = header_texts(model) or {}
    found = texts.get(COVER) or _cover_of(texts.get("ssmd_cover_images"))
    if not isinstance(found, str) or not found:
        return None
    try:
        return io.BytesIO(base64.b64decode(found.rpartition(",")[2], validate=True))
    except (binascii.Error, ValueError):
        return None


def _cover_of(text: Any) -> Any:
    """The first of a list of images, as trainers write it."""
    try:
        images = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return images[0] if isinstance(images, list) and images else None


def routes() -> list[web.RouteDef]:
    """The routes of models."""
    return [
        web.get("/models", kinds),
        web.get("/models/{folder}", names),
        web.get("/experiment/models", library),
        web.get("/experiment/models/{folder}", files),
        web.get("/experiment/models/preview/{folder}/{index}/{file:.+}", preview),
    ]
