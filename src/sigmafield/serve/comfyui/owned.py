"""The directories of the owner of a request."""

from __future__ import annotations

from aiohttp import web

from sigmafield.serve.comfyui.folders import Directories
from sigmafield.serve.http.context import OWNER

FILES = web.AppKey("comfyui files", Directories)


def all_directories(request: web.Request) -> Directories:
    """The directories of the server."""
    return request.app[FILES]


def directories(request: web.Request) -> Directories:
    """The directories of the owner of a request."""
    return request.app[FILES].of(request[OWNER])
