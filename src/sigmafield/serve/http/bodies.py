"""Bodies of requests, read within limits of size and time, and checked by their type."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web

from sigmafield.serve.http.context import server_of
from sigmafield.serve.http.webhooks import Webhook
from sigmafield.serve.jobs import MOST_PRIORITY
from sigmafield.serve.limits import MIB
from sigmafield.serve.requests import BadRequest

T = TypeVar("T")

Priority = Annotated[int, msgspec.Meta(ge=-MOST_PRIORITY, le=MOST_PRIORITY)]


class NewJob(msgspec.Struct, forbid_unknown_fields=True):
    """A job: a recipe, or a workflow of ComfyUI in API form.

    Args:
        recipe: What to draw; its entries are those of a recipe.
        workflow: Nodes by id.
        extra: Further values that are written into a workflow's images.
        priority: Jobs of a higher one run first.
        webhook: Where to say that it has ended.
    """

    recipe: dict[str, Any] | None = None
    workflow: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None
    priority: Priority = 0
    webhook: Webhook | None = None


class NewPriority(msgspec.Struct, forbid_unknown_fields=True):
    """A job's new priority.

    Args:
        priority: Jobs of a higher one run first, and displace running ones.
    """

    priority: Priority


class Clone(msgspec.Struct, forbid_unknown_fields=True):
    """A job that goes on from another one's saved state.

    Args:
        step: The step to go on from, which has to be saved; null is the start.
        changes: Entries of the recipe with other values.
    """

    step: Annotated[int, msgspec.Meta(ge=0)] | None = None
    changes: dict[str, Any] = {}


async def read_body(request: web.Request, types: tuple[str, ...]) -> bytes:
    """The body of a request.

    Args:
        request: The request.
        types: Media types of which it may be; "image/*" allows all images.

    Raises:
        web.HTTPException: It is of another type, is compressed, is too large, or takes too long to arrive.
    """
    check_type(request, types)
    settings = server_of(request).settings
    try:
        return await asyncio.wait_for(request.read(), settings.request_seconds)
    except asyncio.TimeoutError:
        text = f"the body must arrive within {settings.request_seconds:g} seconds"
        raise web.HTTPRequestTimeout(text=text) from None
    except web.HTTPRequestEntityTooLarge:
        raise too_large(settings.limits.max_body * MIB) from None


def too_large(most: int) -> web.HTTPException:
    """The error of a body that is larger than `most` bytes."""
    return web.HTTPRequestEntityTooLarge(most, text=f"a body may have {most // MIB} MiB on this server")


def check_type(request: web.Request, types: tuple[str, ...]) -> None:
    """Raise an error for a body of another media type, or a compressed one."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise web.HTTPUnsupportedMediaType(text="a body must not be compressed: leave Content-Encoding out")
    kind = request.content_type
    if kind not in types and f"{kind.partition('/')[0]}/*" not in types:
        raise web.HTTPUnsupportedMediaType(text=f"Content-Type must be {' or '.join(types)}; got {kind}")


async def read_json(request: web.Request, kind: type[T]) -> T:
    """The body of a request, which has to be JSON of this type; errors as `read_body`, and those of msgspec."""
    body = await read_body(request, ("application/json",))
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: {error}") from None
