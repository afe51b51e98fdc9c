"""Routes that show files: what workflows save and load, and the texts in files of models."""

from __future__ import annotations

import io
import json
import re
import struct
from mimetypes import guess_type
from pathlib import Path
from urllib.parse import quote

from aiohttp import web
from PIL import Image, ImageOps

from sigmafield.serve.comfyui.answers import plain
from sigmafield.serve.comfyui.folders import annotated, inside
from sigmafield.serve.comfyui.owned import directories
from sigmafield.serve.http.context import in_thread

ACTIVE = re.compile(r"text/(html|css|javascript|xml)|application/(xhtml\+xml|javascript|x-javascript|xml)|.*\+xml")
"""Types that a browser would run as a part of this site; they are sent as bytes to be saved."""

LARGEST_HEADER = 100 * 2**20
"""Bytes of the header of a file of weights that are read at most."""


async def view(request: web.Request) -> web.StreamResponse:
    """A file of a directory, or an image as a smaller copy or one of its channels."""
    query = request.query
    if not (name := query.get("filename")):
        return web.Response(status=404)
    name, kind = annotated(name)
    if not name or name.startswith("/") or ".." in name:
        return web.Response(status=400)
    here = directories(request)
    try:
        root = here.root(kind or query.get("type") or "output")
    except ValueError:
        return web.Response(status=400)
    try:
        path = inside(root, query.get("subfolder", ""), name)
    except ValueError:
        return web.Response(status=403)
    if not await in_thread(path.is_file):
        return web.Response(status=404)
    channel, preview = query.get("channel", "rgba"), query.get("preview")
    if preview is not None or channel in ("rgb", "a"):
        made = await in_thread(changed, path, preview, channel)
        if made is not None:
            data, media = made
            return web.Response(body=data, content_type=media, headers={"Content-Disposition": disposition(path.name)})
    return shown_file(request, path)


def shown_file(request: web.Request, path: Path, media: str | None = None) -> web.StreamResponse:
    """A file as it is; what a browser would run is sent as bytes to be saved."""
    media = media or media_type(path.name)
    headers = {"Content-Disposition": disposition(path.name), "X-Content-Type-Options": "nosniff"}
    svg_as_image = media == "image/svg+xml" and request.headers.get("Sec-Fetch-Dest") == "image"
    if ACTIVE.fullmatch(media):
        headers |= {"Vary": "Sec-Fetch-Dest", "Cache-Control": "no-store"}
        headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
        if not svg_as_image:
            media, headers["Content-Disposition"] = "application/octet-stream", disposition(path.name, "attachment")
    return web.FileResponse(path, headers={**headers, "Content-Type": media})


def media_type(name: str) -> str:
    """The media type of a file by its name, the same on all systems."""
    known = {".js": "text/javascript", ".mjs": "text/javascript", ".webp": "image/webp", ".json": "application/json"}
    return known.get(Path(name).suffix.lower()) or guess_type(name)[0] or "application/octet-stream"


def disposition(name: str, how: str = "") -> str:
    """A header that gives a file its name."""
    ascii_name = re.sub(r'[^\x20-\x7e]|["\\]', "_", name)
    parts = [*([how] if how else []), f'filename="{ascii_name}"']
    if ascii_name != name:
        parts.append(f"filename*=UTF-8''{quote(name)}")
    return "; ".join(parts)


def changed(path: Path, preview: str | None, channel: str) -> tuple[bytes, str] | None:
    """(bytes, media type) of an image as it is asked for; None for a file that is not an image.

    Args:
        path: The file.
        preview: "webp" or "jpeg", with ";" and a quality; others are webp; None: no smaller copy.
        channel: "rgb", "a" or "rgba".
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened) if preview is not None else opened.copy()
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    data = io.BytesIO()
    if preview is not None:
        form, _, quality = preview.partition(";")
        kind = "jpeg" if form == "jpeg" and channel != "a" else "webp"
        image = image.convert("RGB" if kind == "jpeg" or channel == "rgb" else "RGBA")
        image.save(data, kind.upper(), quality=int(quality) if re.fullmatch("[1-9][0-9]?|100", quality) else 90)
        return data.getvalue(), f"image/{kind}"
    if channel == "rgb":
        made = image.convert("RGB")
    else:
        alpha = image.convert("RGBA").getchannel("A")
        made = Image.new("RGBA", image.size)
        made.putalpha(alpha)
    made.save(data, "PNG")
    return data.getvalue(), "image/png"


async def metadata(request: web.Request) -> web.Response:
    """The texts in a file of weights."""
    here, name = directories(request), request.query.get("filename", "")
    try:
        roots = here.kind_of(request.match_info["folder"])
        found = next((path for root in roots if (path := inside(root, name)).is_file()), None)
        texts = await in_thread(header_texts, found) if found is not None else None
    except (LookupError, ValueError):
        texts = None
    return web.Response(status=404) if texts is None else plain(texts)


def header_texts(path: Path) -> dict[str, str] | None:
    """The `__metadata__` of a safetensors file; None without any, or for another file.

    Raises:
        ValueError: The file is damaged.
    """
    if path.suffix.lower() != ".safetensors":
        return None
    with path.open("rb") as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < size <= min(LARGEST_HEADER, path.stat().st_size - 8):
            raise ValueError(f"{path.name} is not a safetensors file")
        header = json.loads(file.read(size))
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return found if isinstance(found, dict) else None


def routes() -> list[web.RouteDef]:
    """The routes that show files."""
    return [web.get("/view", view), web.get("/view_metadata/{folder}", metadata)]
