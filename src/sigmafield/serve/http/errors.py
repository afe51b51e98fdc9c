"""Every error is one JSON object: {"error": {"message": …, "type": …, "field": …}}."""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from sigmafield.serve.jobs import Conflict, QueueFull, WrongState
from sigmafield.serve.requests import BadRequest

LOG = logging.getLogger("sigmafield.serve")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors of a disk that takes nothing more."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def failed(
    status: int, message: str, field: str | None = None, kind: str = "", headers: dict[str, str] | None = None
) -> web.Response:
    """An error's answer.

    Args:
        status: HTTP's status.
        message: What is wrong, in one line.
        field: The entry of the request that is wrong.
        kind: What sort of error it is; "" follows from the status.
        headers: Further headers.
    """
    kind = kind or {
        401: "authentication_error", 403: "permission_error", 404: "not_found_error", 409: "conflict_error",
        429: "rate_limit_error",
    }.get(status, "invalid_request_error" if status < 500 else "server_error")  # fmt: skip
    # param and code are what OpenAI's clients read
    error: dict[str, Any] = {"message": message, "type": kind, "field": field, "param": field, "code": None}
    return web.json_response({"error": error}, status=status, headers=headers)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns what handlers raise into answers."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        answer = failed(error.status, error.text or error.reason, headers=headers)
        if error.status in (408, 413):  # the rest of the body is not waited for
            answer.force_close()
        return answer
    except asyncio.CancelledError:
        raise
    except ConnectionResetError:  # the client has gone: nobody reads this answer
        return web.Response(status=499, reason="Client Closed Request")
    except Exception as error:
        return _answer(request, error)


def _answer(request: web.Request, error: Exception) -> web.Response:
    if isinstance(error, QueueFull):
        return failed(429, str(error), headers={"Retry-After": str(error.seconds)})
    if isinstance(error, (Conflict, WrongState)):
        return failed(409, str(error))
    if isinstance(error, BadRequest):
        return failed(400, str(error), error.field)
    if isinstance(error, (msgspec.ValidationError, msgspec.DecodeError)):
        return failed(400, *_of_msgspec(str(error)))
    if isinstance(error, LookupError) and type(error) is LookupError:
        return failed(404, str(error))
    if isinstance(error, ValueError):
        return failed(400, " ".join(str(error).split()))
    if isinstance(error, sqlite3.OperationalError) or (isinstance(error, OSError) and error.errno in FULL):
        LOG.error("%s %s: %s", request.method, request.path, error)
        return failed(503, "the server cannot write to its disk", headers={"Retry-After": "60"})
    LOG.exception("%s %s failed", request.method, request.path, exc_info=error)
    return failed(500, "the server has failed at this request; its log says why")


def _of_msgspec(text: str) -> tuple[str, str | None]:
    """(a message, the field that it is about) from an error of msgspec."""
    message, _, path = text.partition(" - at `$")
    inside = re.findall(r"[A-Za-z_]\w*", path)
    quoted = re.search(r"(?:required|unknown) field `([^`]+)`", message)
    field = ".".join([*inside, *([quoted[1]] if quoted else [])]) or None
    where = f"{'.'.join(inside)}: " if inside else ""
    return where + message.replace("Object", "the body", 1) if not inside else where + message, field
