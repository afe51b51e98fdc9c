"""Routes of assets: files that clients send, and those that jobs have made, each known by an id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from aiohttp import web

from sigmafield.serve.comfyui.answers import body_of, plain
from sigmafield.serve.comfyui.folders import Directories
from sigmafield.serve.comfyui.owned import directories
from sigmafield.serve.comfyui.uploads import read_form
from sigmafield.serve.comfyui.v2.errors import BASE, Refused
from sigmafield.serve.comfyui.v2.records import Asset, Records
from sigmafield.serve.comfyui.v2.uploaded import from_hash, from_path, stored
from sigmafield.serve.comfyui.view import shown_file
from sigmafield.serve.http.context import OWNER, in_thread

RECORDS = web.AppKey("comfy api v2", Records)

URL_KEPT = timedelta(days=1)
"""How long the address of an asset is said to be good; it is good as long as the asset is there."""


def when(seconds: float) -> str:
    """A time as ISO 8601 has it, with its offset."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds")


def soon() -> str:
    """When an address given now is said to end."""
    return (datetime.now(timezone.utc) + URL_KEPT).isoformat(timespec="microseconds")


def absolute(request: web.Request, path: str) -> str:
    """An address of this server as the client of a request knows it."""
    return f"{request.scheme}://{request.host}{path}"


def described(request: web.Request, asset: Asset, new: bool | None = None) -> dict[str, Any]:
    """An asset as clients see it.

    Args:
        request: Whose answer it is in.
        asset: The asset.
        new: Whether its bytes are new; None where that is not said.
    """
    found: dict[str, Any] = {
        "id": asset.id, "hash": asset.hash, "size_bytes": asset.size, "content_type": asset.content_type,
        "file_path": asset.file_path, "created_at": when(asset.created),
        "url": absolute(request, f"{BASE}/assets/{asset.id}/content"), "url_expires_at": soon(),
    }  # fmt: skip
    if new is not None:
        found["created_new"] = new
    if asset.job is not None:
        found["job_id"] = asset.job
    return found


async def create(request: web.Request) -> web.Response:
    """Keep a file."""
    here, records = directories(request), request.app[RECORDS]
    here.temp.mkdir(parents=True, exist_ok=True)
    try:
        form = await read_form(request, here.temp, here.settings.max_upload)
    except ValueError as error:
        raise Refused(422, "invalid_request", str(error)) from None
    try:
        if "file" not in form.files or not (name := form.fields.get("file_path")):
            raise Refused(422, "invalid_request", "The form must have the parts file_path and file.")
        kind = checked_type(form.fields.get("content_type"))
        asset, new = await in_thread(
            stored, form.files["file"][1], name, kind, form.fields.get("expected_hash"), request[OWNER], here, records
        )
    finally:
        form.remove()
    return plain(described(request, asset, new), 201 if new else 200)


def checked_type(text: str | None) -> str:
    """A media type. Refused if it is not one."""
    kind = (text or "application/octet-stream").strip()
    if not re.fullmatch(r"[\w.+-]{1,100}/[\w.+-]{1,100}(\s*;[\x20-\x7e]{0,200})?", kind, re.ASCII):
        raise Refused(422, "invalid_request", "content_type must be a media type, such as image/png.")
    return kind


@dataclass(frozen=True)
class Fields:
    """The texts of a JSON body.

    Args:
        values: By name.
    """

    values: dict[str, Any]

    def text(self, name: str, required: bool = False) -> str | None:
        """A text; None if it is not there. Refused if it has to be, or is not a text."""
        value = self.values.get(name)
        if value is None and not required:
            return None
        if not isinstance(value, str) or not value:
            raise Refused(422, "invalid_request", f"'{name}' must be a text.")
        return value


async def fields(request: web.Request) -> Fields:
    """The object of a JSON body. Refused if it is not one."""
    try:
        body = await body_of(request)
    except ValueError as error:
        raise Refused(400, "invalid_request", str(error)) from None
    if not isinstance(body, dict):
        raise Refused(400, "invalid_request", "The body must be an object.")
    return Fields(body)


async def create_from_hash(request: web.Request) -> web.Response:
    """Make an asset of bytes that are here."""
    body, records = await fields(request), request.app[RECORDS]
    hash, name = body.text("hash", required=True) or "", body.text("file_path")
    asset, new = await in_thread(from_hash, hash, name, request[OWNER], records)
    return plain(described(request, asset, new), 201 if new else 200)


async def create_from_path(request: web.Request) -> web.Response:
    """Make an asset of a file in one of the server's folders."""
    body, records, here = await fields(request), request.app[RECORDS], directories(request)
    path, kind = body.text("path", required=True) or "", body.text("content_type")
    kind = None if kind is None else checked_type(kind)
    asset, new = await in_thread(from_path, path, body.text("file_path"), kind, request[OWNER], here, records)
    return plain(described(request, asset, new), 201 if new else 200)


async def has_hash(request: web.Request) -> web.Response:
    """Whether there are bytes with a hash."""
    found = await in_thread(request.app[RECORDS].with_hash, request.match_info["hash"], request[OWNER])
    return web.Response(status=200 if found else 404)


def asset_of(request: web.Request) -> Asset:
    """The asset that a request's address names. Refused if its owner has no such asset."""
    try:
        return request.app[RECORDS].asset(request.match_info["id"], request[OWNER])
    except LookupError:
        raise Refused(404, "not_found", "Unknown asset id.") from None


async def show(request: web.Request) -> web.Response:
    """What is known of an asset."""
    return plain(described(request, await in_thread(asset_of, request)))


async def content(request: web.Request) -> web.StreamResponse:
    """The bytes of an asset, or a range of them."""
    asset = await in_thread(asset_of, request)
    if not await in_thread(lambda: asset.there):
        raise Refused(404, "output_unavailable", "The file of this asset was deleted or replaced.")
    return shown_file(request, Path(asset.path), asset.content_type)


async def delete(request: web.Request) -> web.Response:
    """Forget an asset; its file stays."""
    asset = await in_thread(asset_of, request)
    if asset.job is not None:
        raise Refused(409, "asset_in_use", f"Job {asset.job} has made this file: delete the job.")
    await in_thread(request.app[RECORDS].remove, asset.id)
    return web.Response(status=204)


def name_of(id: str | None, hash: str | None, owner: str, here: Directories, records: Records) -> Asset | None:
    """The asset of an id, or of a hash where the id is not known; None if there is none, or its file is gone."""
    found: list[Asset] = []
    if id is not None:
        try:
            found = [records.asset(id, owner)]
        except LookupError:
            found = []
    if not found and hash is not None:
        found = records.with_hash(hash, owner)
    return next((asset for asset in found if asset.there), None)


def routes() -> list[web.RouteDef]:
    """The routes of assets."""
    return [
        web.post(f"{BASE}/assets", create),
        web.post(f"{BASE}/assets/from-hash", create_from_hash),
        web.post(f"{BASE}/assets/from-path", create_from_path),
        web.head(f"{BASE}/assets/by-hash/{{hash}}", has_hash),
        web.get(f"{BASE}/assets/{{id}}", show, allow_head=False),
        web.get(f"{BASE}/assets/{{id}}/content", content),
        web.delete(f"{BASE}/assets/{{id}}", delete),
    ]
