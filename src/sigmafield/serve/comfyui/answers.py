"""Short answers, bodies that clients send with any type or none, and files that arrive a piece at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from sigmafield.comfyui.saving import as_json
from sigmafield.core.registry import shown
from sigmafield.runs.files import temporary_file


def plain(value: Any, status: int = 200) -> web.Response:
    """An answer in JSON, with null in place of numbers that are not finite."""
    return web.Response(text=as_json(value), status=status, content_type="application/json")


def refused(message: str, status: int = 400) -> web.Response:
    """An answer that says what is wrong."""
    return plain({"error": message}, status)


async def body_of(request: web.Request) -> Any:
    """The JSON of a body, whatever its type is said to be; None for an empty one.

    Raises:
        ValueError: It is not JSON.
    """
    text = await request.read()
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the body is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"the body is not JSON: {error}") from None


def cleared(body: Any) -> tuple[bool, list[str]]:
    """(whether all are deleted, the ids that are) of a body with clear or delete; an empty one deletes nothing.

    Raises:
        ValueError: It has another form.
    """
    if body is not None and not isinstance(body, Mapping):
        raise ValueError(f"the body must be an object with clear or delete; got {shown(body)}")
    ids = (body or {}).get("delete") or []
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
        raise ValueError(f"delete must be a list of prompt ids; got {shown(ids)}")
    return bool((body or {}).get("clear")), ids


def flag(request: web.Request, name: str, default: str = "false") -> bool:
    """Whether a query says yes."""
    return request.query.get(name, default).lower() in ("true", "1")


async def received(folder: Path, read: Callable[[], Awaitable[bytes]], most: int) -> Path:
    """A new file with what arrives, under a temporary name; the caller renames or removes it.

    Args:
        folder: Where it is made.
        read: Gives the next piece, an empty one at the end.
        most: Bytes that may arrive.

    Raises:
        web.HTTPRequestEntityTooLarge: More arrive.
    """
    size = 0
    with temporary_file(folder, "upload") as file:
        while chunk := await read():
            size += len(chunk)
            if size > most:
                text = f"a file may have {most / 2**20:g} MiB on this server"
                raise web.HTTPRequestEntityTooLarge(most, text=text)
            await asyncio.to_thread(file.write, chunk)
    return Path(file.name)
