"""The OpenAPI document: generated from the options of a recipe and the types of the bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

DOCUMENT = web.AppKey("document", Mapping[str, Any])


def document(default: str) -> dict[str, Any]:
    """The document; `default` is the model of recipes that name none."""
    return {"openapi": "3.1.0", "info": {"title": "sigmafield", "version": "1"}, "paths": {}}


async def show(request: web.Request) -> web.Response:
    """The document."""
    return web.json_response(request.app[DOCUMENT])
