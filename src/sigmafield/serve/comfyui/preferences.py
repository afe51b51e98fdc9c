"""Routes of settings, and of what packs of nodes bring for the page: translations, templates, subgraphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiohttp import web

from sigmafield.serve.comfyui.answers import body_of, plain, refused
from sigmafield.serve.comfyui.users import CHANGING, read_object, user_folder, write_object
from sigmafield.serve.http.context import in_thread

FILE = "comfy.settings.json"
"""The file of settings in the folder of a user."""


async def settings(request: web.Request) -> web.Response:
    """All settings."""
    return plain(await in_thread(read_object, user_folder(request) / FILE))


async def setting(request: web.Request) -> web.Response:
    """One setting; null if it was never made."""
    found = await in_thread(read_object, user_folder(request) / FILE)
    return plain(found.get(request.match_info["id"]))


async def change(request: web.Request) -> web.Response:
    """Change several settings."""
    body = await body_of(request)
    if not isinstance(body, dict):
        return refused("settings must be an object")
    await in_thread(changed, user_folder(request) / FILE, body)
    return web.Response()


async def change_one(request: web.Request) -> web.Response:
    """Change one setting."""
    value = await body_of(request)
    await in_thread(changed, user_folder(request) / FILE, {request.match_info["id"]: value})
    return web.Response()


def changed(file: Path, values: dict[str, Any]) -> None:
    """Change settings in a file."""
    with CHANGING:
        write_object(file, {**read_object(file), **values})


async def translations(request: web.Request) -> web.Response:
    """Texts of packs by language: this server's nodes have English ones only."""
    return plain({})


async def templates(request: web.Request) -> web.Response:
    """Workflows that packs bring: none."""
    return plain({})


async def subgraphs(request: web.Request) -> web.Response:
    """Subgraphs that packs bring: none."""
    return plain({})


async def subgraph(request: web.Request) -> web.Response:
    """A subgraph that a pack brings: null, there are none."""
    return plain(None)


def routes() -> list[web.RouteDef]:
    """The routes of settings and of what packs bring."""
    return [
        web.get("/settings", settings),
        web.post("/settings", change),
        web.get("/settings/{id}", setting),
        web.post("/settings/{id}", change_one),
        web.get("/i18n", translations),
        web.get("/workflow_templates", templates),
        web.get("/global_subgraphs", subgraphs),
        web.get("/global_subgraphs/{id}", subgraph),
    ]
