"""Routes that describe the node classes."""

from __future__ import annotations

from aiohttp import web

from sigmafield.comfyui.object_info import object_info
from sigmafield.comfyui.replacements import described
from sigmafield.serve.comfyui.answers import plain
from sigmafield.serve.comfyui.context import comfyui_of
from sigmafield.serve.comfyui.owned import directories
from sigmafield.serve.http.context import OWNER, in_thread
from sigmafield.serve.workflow_job import Workflows


def _workflows(request: web.Request) -> Workflows:
    return comfyui_of(request).engine.workflows.of(request[OWNER], "")


async def index(request: web.Request) -> web.Response:
    """All classes."""
    found = _workflows(request)

    def described_all() -> web.Response:
        return plain({name: object_info(each, found.folders) for name, each in found.classes.items()})

    return await in_thread(described_all)


async def show(request: web.Request) -> web.Response:
    """One class; nothing for an unknown one."""
    found, name = _workflows(request), request.match_info["name"]
    if name not in found.classes:
        return plain({})
    return plain({name: await in_thread(object_info, found.classes[name], found.folders)})


async def replacements(request: web.Request) -> web.Response:
    """Classes that others have taken the place of."""
    return plain(described())


async def embeddings(request: web.Request) -> web.Response:
    """The names of embeddings, without their endings."""
    names = await in_thread(directories(request).folders.names, "embeddings")
    return plain([name.rpartition(".")[0] for name in names])


def routes() -> list[web.RouteDef]:
    """The routes of node classes."""
    return [
        web.get("/object_info", index),
        web.get("/object_info/{name}", show),
        web.get("/node_replacements", replacements),
        web.get("/embeddings", embeddings),
    ]
