"""A route: its address, its handler, and what is said of it in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

Method = Literal["GET", "POST", "DELETE"]

IMAGE, EVENTS, JSON, HTML, TEXT = "image/*", "text/event-stream", "application/json", "text/html", "text/plain"
BYTES = "application/octet-stream"


@dataclass(frozen=True)
class Answer:
    """An answer without an error.

    Args:
        about: What it means.
        kind: Its media type; None without a body.
        schema: Of its JSON.
    """

    about: str
    kind: str | None = JSON
    schema: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """A route.

    Args:
        method: HTTP's method.
        path: Its address; {id} is a part that varies.
        handle: What answers; the first line of its docstring is what the document says.
        answers: By status.
        body: The type of a JSON body.
        form: The parts of a multipart form: what each is, "file" or the name of the field of `body` that it has.
        query: Schemas of the query's parameters.
        headers: Schemas of headers that it reads.
        open: Whether it needs no token.
    """

    method: Method
    path: str
    handle: Callable[[web.Request], Awaitable[web.StreamResponse]]
    answers: Mapping[int, Answer]
    body: type | None = None
    form: Mapping[str, Any] | None = None
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    headers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    open: bool = False
