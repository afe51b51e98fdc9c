"""Routes of userdata: workflows and other files that the page keeps for its user."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from sigmafield.serve.comfyui.answers import flag, plain, received
from sigmafield.serve.comfyui.folders import inside
from sigmafield.serve.comfyui.owned import all_directories
from sigmafield.serve.comfyui.users import user_folder
from sigmafield.serve.comfyui.view import media_type
from sigmafield.serve.http.context import in_thread


class Refused(Exception):
    """A request that is not done.

    Args:
        status: HTTP's status.
        text: Why.
    """

    def __init__(self, status: int, text: str = ""):
        super().__init__(text)
        self.answer = web.Response(status=status, text=text or None)


PAGE_FOLDERS = ("workflows", "subgraphs")
"""Folders that the page saves into."""


def own(request: web.Request, name: str) -> Path:
    """The path of a name in the folder of a request's user; Refused if it leads out of it."""
    folder = user_folder(request)
    try:
        path = inside(folder, name)
    except ValueError:
        raise Refused(403) from None
    if path == folder or path.name.startswith(".upload."):
        raise Refused(403)
    return path


async def listing(request: web.Request) -> web.Response:
    """The files of a folder."""
    if not (name := request.query.get("dir")):
        return web.Response(status=400, text="Directory not provided")
    try:
        folder = own(request, name)
    except Refused:
        return web.Response(status=403, text="Invalid directory")
    if not folder.is_dir():
        known = name.strip("/") in PAGE_FOLDERS  # the page asks for them before it has saved anything
        return plain([]) if known else web.Response(status=404, text="Directory not found")
    paths = await in_thread(lambda: list(below(folder, flag(request, "recurse"))))
    if flag(request, "full_info"):
        return plain([info(path, folder) for path in paths])
    found = [path.relative_to(folder).as_posix() for path in paths]
    return plain([[path, *path.split("/")] for path in found] if flag(request, "split") else found)


def below(folder: Path, recurse: bool) -> Iterator[Path]:
    """The files of a folder, and of those in it, sorted."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".upload."):
            yield path
        elif recurse and path.is_dir() and not path.is_symlink():
            yield from below(path, True)


def info(path: Path, root: Path) -> dict[str, Any]:
    """A file as the page lists it."""
    at = path.stat()
    return {"path": path.relative_to(root).as_posix(), "size": at.st_size, "modified": at.st_mtime,
            "created": at.st_ctime}  # fmt: skip


async def tree(request: web.Request) -> web.Response:
    """The folders and files below a folder, folders first."""
    root = user_folder(request)
    try:
        folder = inside(root, request.query.get("path", "").lstrip("/"))
    except ValueError:
        return web.Response(status=403, text="Invalid path")
    if not folder.is_dir():
        return web.Response(status=404, text="Directory not found")
    return plain(await in_thread(lambda: list(entries(folder, root))))


def entries(folder: Path, root: Path) -> Iterator[dict[str, Any]]:
    """What is below a folder, as the page lists it."""
    there = sorted(path for path in folder.iterdir() if not path.name.startswith(".upload."))
    inner = [path for path in there if path.is_dir() and not path.is_symlink()]
    for path in inner:
        yield {"name": path.name, "path": path.relative_to(root).as_posix(), "type": "directory"}
        yield from entries(path, root)
    for path in there:
        if path.is_file():
            at = path.stat()
            where = path.relative_to(root).as_posix()
            yield {"name": path.name, "path": where, "type": "file", "size": at.st_size, "modified": at.st_mtime}


async def show(request: web.Request) -> web.StreamResponse:
    """A file, or "user.css" at the top."""
    try:
        path = own(request, request.match_info.get("file", "user.css"))
    except Refused as error:
        return error.answer
    if not path.is_file():
        return web.Response(status=404)
    return web.FileResponse(path, headers={"Content-Type": media_type(path.name), "Cache-Control": "no-cache"})


async def save(request: web.Request) -> web.Response:
    """Write a file; without overwrite only one that does not exist."""
    try:
        path = own(request, request.match_info["file"])
    except Refused as error:
        return error.answer
    path.parent.mkdir(parents=True, exist_ok=True)
    most = all_directories(request).settings.max_upload
    file = await received(path.parent, lambda: request.content.read(2**16), most)
    try:
        if not await in_thread(put, file, path, flag(request, "overwrite", "true")):
            return web.Response(status=409, text="File already exists")
    except OSError:
        return web.Response(status=400, text="a folder has this name")
    finally:
        file.unlink(missing_ok=True)
    return named(request, path)


def put(file: Path, path: Path, overwrite: bool) -> bool:
    """Give a file another name; False if it is taken and must not be overwritten."""
    if overwrite:
        os.replace(file, path)
        return True
    try:
        os.link(file, path)
    except FileExistsError:
        return False
    file.unlink()
    return True


def named(request: web.Request, path: Path) -> web.Response:
    """The answer after a file was written or moved."""
    root = user_folder(request)
    return plain(info(path, root) if flag(request, "full_info") else path.relative_to(root).as_posix())


async def delete(request: web.Request) -> web.Response:
    """Delete a file."""
    try:
        path = own(request, request.match_info["file"])
    except Refused as error:
        return error.answer
    if not path.is_file():
        return web.Response(status=404)
    await in_thread(path.unlink)
    return web.Response(status=204)


async def move(request: web.Request) -> web.Response:
    """Give a file another name."""
    try:
        source, target = own(request, request.match_info["file"]), own(request, request.match_info["dest"])
    except Refused as error:
        return error.answer
    if not source.exists():
        return web.Response(status=404)
    if not flag(request, "overwrite", "true") and target.exists():
        return web.Response(status=409, text="File already exists")
    try:
        await in_thread(moved, source, target, flag(request, "overwrite", "true"))
    except OSError:
        return web.Response(status=409, text="File already exists")
    return named(request, target)


def moved(source: Path, target: Path, overwrite: bool) -> None:
    """Move a file or a folder. OSError where the name is taken and must not be overwritten."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        if not put(source, target, overwrite):
            raise FileExistsError(target)
    elif target.exists():
        raise FileExistsError(target)
    else:
        shutil.move(source, target)


def routes() -> list[web.RouteDef]:
    """The routes of userdata."""
    return [
        web.get("/userdata", listing),
        web.get("/v2/userdata", tree),
        web.post("/userdata/{file}/move/{dest}", move),
        web.get("/userdata/{file}", show),
        web.post("/userdata/{file}", save),
        web.delete("/userdata/{file}", delete),
        web.get("/user.css", show),
    ]
