"""Errors of Comfy API v2: {"error": {"code": …, "message": …, "details": …}}."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from typing import Any

from aiohttp import hdrs, web

from sigmafield.serve.comfyui.answers import plain
from sigmafield.serve.http.errors import Handler
from sigmafield.serve.jobs import QueueFull

LOG = logging.getLogger("sigmafield.serve")

BASE = "/api/v2"
"""What the addresses of all routes begin with."""

REQUEST_ID = web.RequestKey("request id", str)

CODES = {
    400: "invalid_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 409: "conflict",
    413: "payload_too_large", 415: "invalid_request", 422: "invalid_request", 429: "queue_full",
    503: "upstream_unreachable",
}  # fmt: skip
"""Codes of errors that have no other, by HTTP's status."""


class Refused(Exception):
    """A request that is not done.

    Args:
        status: HTTP's status.
        code: What clients tell errors apart by.
        message: What is wrong.
        details: Further values.
        seconds: After which the client may try again; None says nothing.
    """

    def __init__(
        self, status: int, code: str, message: str, details: Mapping[str, Any] | None = None, seconds: int | None = None
    ):
        super().__init__(message)
        self.status, self.code, self.details, self.seconds = status, code, details, seconds

    def answer(self) -> web.Response:
        """The error as an answer."""
        return failed(self.status, self.code, str(self), self.details, self.seconds)


def failed(
    status: int, code: str, message: str, details: Mapping[str, Any] | None = None, seconds: int | None = None
) -> web.Response:
    """An error's answer; arguments as for `Refused`."""
    made = plain({"error": {"code": code, "message": message, "details": details}}, status)
    if seconds is not None:
        made.headers[hdrs.RETRY_AFTER] = str(seconds)
    return made


async def name_request(request: web.Request, answer: web.StreamResponse) -> None:
    """Give an answer of this protocol its request's id, which the log has as well where the server has failed."""
    if (id := request.get(REQUEST_ID)) is not None:
        answer.headers["X-Comfy-Request-Id"] = id


@web.middleware
async def v2_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives errors of the routes of this protocol its form, those of the guard as well."""
    if not request.path.startswith(BASE):
        return await handler(request)
    request[REQUEST_ID] = uuid.uuid4().hex
    try:
        answer = await handler(request)
    except Refused as error:
        return error.answer()
    except QueueFull as error:
        return failed(429, "queue_full", str(error), seconds=error.seconds)
    except web.HTTPException as error:
        made = failed(error.status, CODES.get(error.status, f"http_{error.status}"), error.text or error.reason)
        if error.status in (408, 413):  # the rest of the body is not waited for
            made.force_close()
        return made
    except ConnectionResetError:  # the client has gone
        raise
    except ValueError as error:
        return failed(400, "invalid_request", " ".join(str(error).split()))
    except Exception as error:
        LOG.exception("%s %s failed, request %s", request.method, request.path, request[REQUEST_ID], exc_info=error)
        return failed(500, "upstream_error", "The server has failed at this request; its log says why.")
    return _translated(answer)


def _translated(answer: web.StreamResponse) -> web.StreamResponse:
    """An error of another part of the server in the form of this protocol; other answers as they are."""
    if answer.status < 400 or not isinstance(answer, web.Response) or answer.content_type != "application/json":
        return answer
    error = json.loads(answer.text or "{}").get("error", {})
    if error.get("code") is not None:
        return answer
    made = failed(
        answer.status, CODES.get(answer.status, f"http_{answer.status}"), error.get("message") or answer.reason or ""
    )
    for name in ("Retry-After", "WWW-Authenticate", "Allow"):
        if name in answer.headers:
            made.headers[name] = answer.headers[name]
    return made
