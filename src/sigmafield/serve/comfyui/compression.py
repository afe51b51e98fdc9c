"""Answers that are compressed for clients that can read it."""

from __future__ import annotations

import re

from aiohttp import hdrs, web

from sigmafield.serve.http.errors import Handler
from sigmafield.serve.http.middleware import Middleware

TEXTS = re.compile(r"application/json|text/.*")
"""Types of answers that are compressed; images are already."""


def compressed(wanted: bool) -> Middleware:
    """The middleware that compresses JSON and texts with gzip; files and streams are sent as they are.

    Args:
        wanted: Whether it does anything.
    """

    @web.middleware
    async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        if wanted and isinstance(answer, web.Response) and answer.body and TEXTS.fullmatch(answer.content_type):
            answer.headers.add(hdrs.VARY, hdrs.ACCEPT_ENCODING)
            if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "").lower():
                answer.enable_compression(web.ContentCoding.gzip)
        return answer

    return answered
