"""OpenAI's image API on our jobs: its own clients work with this server's address as `base_url`."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from PIL import Image

from sigmafield.recipes.image_io import decoded
from sigmafield.serve.http.bodies import NewJob, read_json
from sigmafield.serve.http.context import OWNER, Server, in_thread, server_of
from sigmafield.serve.http.errors import failed
from sigmafield.serve.http.jobs import JobFailed, finished, submitted
from sigmafield.serve.http.uploads import read_form
from sigmafield.serve.jobs import FINISHED, JobRecord
from sigmafield.serve.requests import BadRequest

EDIT_STRENGTH = 0.75
"""Denoise strength of an edit without a mask, unless the request has another one."""


class Generation(msgspec.Struct):
    """The fields of OpenAI's requests for images; those that it does not name are ignored.

    Args:
        prompt: What to draw.
        model: One of `GET /v1/models`; null is the default.
        n: Number of images.
        size: "WIDTHxHEIGHT", or "auto" for the model's own.
        response_format: b64_json, or url, which is this server's own address and needs the same token.
        output_format: What b64_json holds.
        output_compression: Quality of JPEG and WebP in percent.
        stream: Must be false.
        recipe: Further entries of a recipe, which OpenAI's client sends as `extra_body={"recipe": …}`.
    """

    prompt: Annotated[str, msgspec.Meta(min_length=1)]
    model: str | None = None
    n: Annotated[int, msgspec.Meta(ge=1)] | None = 1
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None
    stream: bool | None = None
    recipe: dict[str, Any] = {}


async def generations(request: web.Request) -> web.Response:
    """Draw images from a prompt."""
    body = await read_json(request, Generation)
    return await _drawn(request, body, {})


async def edits(request: web.Request) -> web.Response:
    """Draw an image again where its mask is transparent, or all of it."""
    parts = await read_form(request, {"image[]": False, "image": False})
    images = parts.pop("image", []) + parts.pop("image[]", [])
    mask = parts.pop("mask", None)
    if len(images) != 1:
        raise BadRequest(f"an edit takes one image; got {len(images)}", "image")
    body = msgspec.convert(_texts(parts), Generation, strict=False)
    uploads, owner = server_of(request).requests.uploads, request[OWNER]
    found = await in_thread(uploads.add, images[0], owner)
    entries: dict[str, Any] = {"image": found.image, "denoise": EDIT_STRENGTH}
    if mask:
        # OpenAI's masks are transparent where the image is drawn again
        drawn = await in_thread(uploads.add, mask[0], owner)
        entries |= {"mask": drawn.image, "mask_from": "inverted_alpha", "denoise": 1.0}
    return await _drawn(request, body, entries)


def _texts(parts: Mapping[str, list[bytes]]) -> dict[str, Any]:
    """The texts of a form; "recipe" is JSON, or has a part "recipe[NAME]" for each entry, as OpenAI's client sends."""
    found: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    for name, values in parts.items():
        try:
            text = values[0].decode()
        except UnicodeDecodeError:
            raise BadRequest(f"{name} must be text in UTF-8", name) from None
        if name == "recipe" or name.startswith("recipe["):
            try:
                value = msgspec.json.decode(text)
            except msgspec.DecodeError:
                value = text
            if name == "recipe":
                if not isinstance(value, dict):
                    raise BadRequest("recipe must be a JSON object", "recipe")
                inner |= value
            else:
                inner[name.removeprefix("recipe[").removesuffix("]")] = value
        else:
            found[name] = text
    return {**found, "recipe": inner} if inner else found


async def _drawn(request: web.Request, body: Generation, entries: Mapping[str, Any]) -> web.Response:
    if body.stream:
        raise BadRequest("stream must be false: GET /v1/jobs/{id}/events streams a job of POST /v1/jobs", "stream")
    recipe = {"seed": "random", **entries, **body.recipe, "prompt": body.prompt, **_size(body.size)}
    if body.n is not None:
        recipe["batch"] = body.n
    if body.model is not None:
        recipe["model"] = body.model
    record = await finished(request, await submitted(request, NewJob(recipe=recipe)))
    server = server_of(request)
    if record.status not in FINISHED:  # nobody could fetch its images: the answer has no place for its address
        await in_thread(server.engine.cancel, record.id)
        if server.feed.closing:
            return failed(503, "the server is shutting down", headers={"Retry-After": "10"})
        return failed(408, f"the images take longer than the {server.settings.wait_seconds:g} seconds of a request")
    if record.status != "done":
        why = server.requests.public.text(record.error) if record.error else f"the job is {record.status}"
        raise JobFailed(why, record.id)
    data = await in_thread(_images, server, record, body, str(request.url.origin()))
    answer = {"created": int(record.ended or time.time()), "data": data}
    return web.json_response({**answer, "output_format": body.output_format or "png"}, headers={"X-Job-Id": record.id})


def _size(size: str | None) -> dict[str, int]:
    if size is None or size == "auto":
        return {}
    width, x, height = size.partition("x")
    if not (x and all(side.isascii() and side.isdecimal() and 0 < len(side) < 8 for side in (width, height))):
        raise BadRequest(f'size must be "WIDTHxHEIGHT" or "auto"; got {size[:100]!r}', "size")
    return {"width": int(width), "height": int(height)}


def _images(server: Server, record: JobRecord, body: Generation, origin: str) -> list[dict[str, str]]:
    if body.response_format == "url":
        return [{"url": f"{origin}/v1/jobs/{record.id}/outputs/{n}"} for n in range(len(record.outputs))]
    kind = body.output_format or "png"
    found: list[dict[str, str]] = []
    for n in range(len(record.outputs)):
        data = server.engine.output(record.id, n).read_bytes()
        if kind != "png":
            data = _encoded(decoded(data, "the output"), kind, body.output_compression)
        found.append({"b64_json": base64.b64encode(data).decode()})
    return found


def _encoded(image: Image.Image, kind: str, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, kind.upper(), quality=100 if quality is None else max(quality, 1))
    return buffer.getvalue()
