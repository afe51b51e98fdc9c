"""Routes of uploads: images that recipes can start from."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from sigmafield.serve.http.bodies import check_type, read_body, too_large
from sigmafield.serve.http.context import OWNER, in_thread, server_of
from sigmafield.serve.limits import MIB
from sigmafield.serve.requests import BadRequest

FORM = "multipart/form-data"


async def create(request: web.Request) -> web.Response:
    """Keep an image: the body itself, or the part "file" of a form."""
    server = server_of(request)
    if request.content_type == FORM:
        fields = await read_form(request, {"file": True})
        [data] = fields.get("file", [b""])
        if not data:
            raise BadRequest('the form needs a part "file" with the image', "file")
    else:
        data = await read_body(request, (FORM, "image/*", "application/octet-stream"))
    if not data:
        raise BadRequest("the body must be an image; it is empty", "file")
    made = await in_thread(server.requests.uploads.add, data, request[OWNER])
    return web.json_response(msgspec.to_builtins(made), status=201)


async def delete(request: web.Request) -> web.Response:
    """Delete an upload."""
    await in_thread(server_of(request).requests.uploads.delete, request.match_info["id"], request[OWNER])
    return web.Response(status=204)


async def read_form(request: web.Request, files: dict[str, bool]) -> dict[str, list[bytes]]:
    """The parts of a multipart form by name, in memory: files, and texts as UTF-8.

    Args:
        request: The request.
        files: Names of parts that are files, and whether they are single.

    Raises:
        web.HTTPException: The body is too large or takes too long.
        BadRequest: It is not a form, or a part is there too often.
    """
    check_type(request, (FORM,))
    settings = server_of(request).settings
    try:
        return await asyncio.wait_for(_parts(request, files), settings.request_seconds)
    except asyncio.TimeoutError:
        text = f"the body must arrive within {settings.request_seconds:g} seconds"
        raise web.HTTPRequestTimeout(text=text) from None
    except (ValueError, AssertionError, RuntimeError, LookupError, HttpProcessingError) as error:
        if isinstance(error, BadRequest):
            raise
        raise BadRequest(f"the body is not a form: {' '.join(str(error).split())}") from None


async def _parts(request: web.Request, files: dict[str, bool]) -> dict[str, list[bytes]]:
    most = server_of(request).settings.limits.max_body * MIB
    found: dict[str, list[bytes]] = {}
    size = 0
    reader = await request.multipart()
    while (part := await reader.next()) is not None:
        name = getattr(part, "name", None) or ""
        if (found.get(name) and files.get(name, True)) or len(found) > 50:
            raise BadRequest(f"the form has more than one part {name[:100]!r}", name[:100])
        data = bytearray()
        while chunk := await part.read_chunk(2**16):  # type: ignore[union-attr]
            data += chunk
            size += len(chunk)
            if size > most:
                raise too_large(most)
        found.setdefault(name, []).append(bytes(data))
    return found
