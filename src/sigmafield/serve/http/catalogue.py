"""Routes of what a recipe can name: models, samplers, schedules, guidance mods."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from sigmafield.core.parameters import Parameter
from sigmafield.models.inspection.folder import listed
from sigmafield.recipes.mods import MODS
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES
from sigmafield.serve.http.context import Server, in_thread, server_of


async def models(request: web.Request) -> web.Response:
    """The models that recipes may name: those that the server was started with, the default first, then its folder's.

    In the form of OpenAI's list of models, with what each is.
    """
    return web.json_response({"object": "list", "data": await in_thread(_models, server_of(request))})


def _models(server: Server) -> list[dict[str, Any]]:
    names, loaded = server.requests.names, server.engine.pipelines()
    found = [_model(name, "model", name in loaded, name == names.default) for name in names.given]
    for entry in listed(names.root) if names.root is not None else ():
        if entry.found is not None or not entry.note.startswith("a pickle"):
            kind = entry.found.kind if entry.found else "folder"
            found.append(_model(entry.path, kind, False, False) | {"note": server.requests.public.text(entry.note)})
    return found


def _model(name: str, kind: str, loaded: bool, default: bool) -> dict[str, Any]:
    fixed = {"object": "model", "created": 0, "owned_by": "sigmafield"}
    return {"id": name, **fixed, "kind": kind, "loaded": loaded, "default": default, "note": ""}


async def samplers(request: web.Request) -> web.Response:
    """The samplers with their parameters."""
    keys = ("name", "order", "evals", "noise", "adaptive", "need_uncond", "paper")
    rows = [_row(each, keys, each.step, each.parameters) for each in SAMPLERS.values()]
    return web.json_response({"samplers": rows})


async def schedules(request: web.Request) -> web.Response:
    """The schedules with their parameters."""
    rows = [_row(each, ("name", "network", "paper"), each.make, each.parameters) for each in SCHEDULES.values()]
    return web.json_response({"schedules": rows})


async def guidance(request: web.Request) -> web.Response:
    """The guidance mods with their parameters."""
    rows = [_row(each, ("name", "stage", "evals", "paper"), each.apply, each.parameters) for each in MODS.values()]
    return web.json_response({"guidance": rows})


def _row(row: object, keys: tuple[str, ...], function: object, known: Mapping[str, Parameter]) -> dict[str, Any]:
    """A row of a registry as JSON has it: some fields, a sentence, and a JSON schema for each parameter."""
    about = (inspect.getdoc(function) or "").partition("\n")[0]
    fields = {key: getattr(row, key) for key in keys}
    return {**fields, "about": about, "parameters": {name: p.schema() for name, p in known.items()}}
