"""The OpenAPI document: generated from the routes, the options of a recipe and the types of the bodies."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from aiohttp import web

from sigmafield.serve.http.route import JSON, Route
from sigmafield.serve.http.schemas import components, parts_of
from sigmafield.serve.limits import Limits

DOCUMENT = web.AppKey("document", Mapping[str, Any])

ERROR = {"description": "What is wrong.", "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}


def document(routes: Iterable[Route], default: str, limits: Limits, tokens: bool) -> dict[str, Any]:
    """The document.

    Args:
        routes: The routes.
        default: The model of recipes that name none.
        limits: How much a recipe may ask for.
        tokens: Whether requests need a token.
    """
    schemas = components(default, limits)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas, tokens)
    about = "Images from recipes: a queue of jobs that run side by side, and survive the server's process."
    return {
        "openapi": "3.1.0",
        "info": {"title": "sigmafield", "version": version("sigmafield"), "description": about},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(route: Route, schemas: Mapping[str, Any], tokens: bool) -> dict[str, Any]:
    about = inspect.getdoc(route.handle) or ""
    module = route.handle.__module__.rpartition(".")[2]
    found: dict[str, Any] = {
        "operationId": f"{module}_{route.handle.__name__}",
        "tags": [module],
        "summary": about.partition("\n")[0],
        "parameters": [*_parameters(route)],
        "responses": {
            **{
                str(status): _answer(answer.about, answer.kind, answer.schema)
                for status, answer in route.answers.items()
            },
            "default": ERROR,
        },
    }
    if tokens and not route.open:
        found["security"] = [{"token": []}]
    if route.form is not None:
        content = {"multipart/form-data": {"schema": parts_of(route.body, schemas, route.form)}}
        found["requestBody"] = {"required": True, "content": content}
    elif route.body is not None:
        content = {JSON: {"schema": {"$ref": f"#/components/schemas/{route.body.__name__}"}}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _answer(about: str, kind: str | None, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": about} | ({} if kind is None else {"content": {kind: {"schema": dict(schema)}}})


def _parameters(route: Route) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", route.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    for place, known in (("query", route.query), ("header", route.headers)):
        for name, schema in known.items():
            about = {"description": schema["description"]} if "description" in schema else {}
            yield {"name": name, "in": place, "required": False, **about, "schema": dict(schema)}


async def show(request: web.Request) -> web.Response:
    """This document."""
    return web.json_response(request.app[DOCUMENT])
