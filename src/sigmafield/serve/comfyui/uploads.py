"""Routes of uploads: images that workflows load, and masks that are painted on them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sigmafield.serve.comfyui.answers import plain, received, refused
from sigmafield.serve.comfyui.folders import Directories, annotated, inside
from sigmafield.serve.comfyui.owned import directories
from sigmafield.serve.http.context import in_thread

LONGEST_FIELD = 2**20
"""Bytes of a field that is not a file."""


@dataclass
class Form:
    """What a form holds.

    Args:
        fields: Texts by name.
        files: Files by name, each (the name that its sender gives, where it is for now).
    """

    fields: dict[str, str] = field(default_factory=dict[str, str])
    files: dict[str, tuple[str, Path]] = field(default_factory=dict[str, tuple[str, Path]])

    def remove(self) -> None:
        """Remove the files that have not been moved."""
        for _, path in self.files.values():
            path.unlink(missing_ok=True)


async def read_form(request: web.Request, folder: Path, most: int) -> Form:
    """The fields and files of a multipart form.

    Args:
        request: The request.
        folder: Where files are put.
        most: Bytes that a file may have.

    Raises:
        ValueError: The body is not a form.
        web.HTTPRequestEntityTooLarge: A file, or a field, is too large.
    """
    form = Form()
    try:
        if request.content_type != "multipart/form-data":
            raise ValueError(f"the body must be multipart/form-data; got {request.content_type}")
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader) or part.name is None or part.name in form.files:
                raise ValueError("each part of the form must have a name of its own")
            if part.filename is None:
                form.fields[part.name] = await _text(part)
            else:
                form.files[part.name] = (part.filename, await received(folder, part.read_chunk, most))
    except BaseException as error:
        form.remove()
        if isinstance(error, (AssertionError, RuntimeError, LookupError, HttpProcessingError)):
            raise ValueError(f"the body is not a form: {' '.join(str(error).split())}") from None
        raise
    return form


async def _text(part: BodyPartReader) -> str:
    data = bytearray()
    while chunk := await part.read_chunk():
        data += chunk
        if len(data) > LONGEST_FIELD:
            raise web.HTTPRequestEntityTooLarge(LONGEST_FIELD, text=f"field {part.name} is too long")
    return data.decode("utf-8", "replace")


async def image(request: web.Request) -> web.Response:
    """Keep an image for workflows."""
    return await _upload(request, lambda form, here, file: file)


async def mask(request: web.Request) -> web.Response:
    """Keep an image with the transparency of another one, which is uploaded."""
    return await _upload(request, masked)


async def _upload(request: web.Request, made: Callable[[Form, Directories, Path], Path]) -> web.Response:
    here = directories(request)
    here.temp.mkdir(parents=True, exist_ok=True)
    form = await read_form(request, here.temp, here.settings.max_upload)
    try:
        if "image" not in form.files or not form.files["image"][0]:
            return refused('the form needs a part "image" with a file and its name')
        return plain(await in_thread(_kept, form, here, made))
    except ValueError as error:
        return refused(str(error))
    finally:
        form.remove()


def _kept(form: Form, here: Directories, made: Callable[[Form, Directories, Path], Path]) -> dict[str, str]:
    """Where an upload is kept, as clients name it."""
    name, file = form.files["image"]
    kind, subfolder = form.fields.get("type") or "input", form.fields.get("subfolder", "")
    target = inside(here.root(kind), subfolder, name)
    if target == here.root(kind) or "\\" in name:
        raise ValueError("the file needs a name")
    file = made(form, here, file)
    overwrite = form.fields.get("overwrite", "").lower() in ("true", "1")
    return {"name": kept(file, target, overwrite).name, "subfolder": subfolder, "type": kind}


def kept(file: Path, target: Path, overwrite: bool = False) -> Path:
    """Move a file to a name, or to the first free one: NAME (1), NAME (2), ….

    Args:
        file: The file.
        target: The name that is wanted.
        overwrite: Whether a file of that name is replaced.

    Returns:
        The file's name; that of a file with the same bytes if there is one before a free name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if overwrite:
        os.replace(file, target)
        return target
    own = digest(file)
    for name in names(target):
        try:
            os.link(file, name)  # fails where the name is taken, without a moment in between
        except FileExistsError:
            if name.is_file() and digest(name) == own:
                return name
        else:
            return name
    raise AssertionError("names never end")


def names(target: Path) -> Iterator[Path]:
    """A name, and those that are tried after it."""
    yield target
    n = 0
    while True:
        n += 1
        yield target.with_name(f"{target.stem} ({n}){target.suffix}")


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    made = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            made.update(chunk)
    return made.hexdigest()


def masked(form: Form, here: Directories, file: Path) -> Path:
    """The original image of a form as a PNG file with the transparency of an uploaded one.

    Raises:
        ValueError: The form names no image that is there, or a file is not an image.
    """
    original = original_of(form, here)
    try:
        with Image.open(original) as source, Image.open(file) as painted:
            texts = PngInfo()
            for key, value in getattr(source, "text", {}).items():
                texts.add_text(key, value)
            made = source.convert("RGBA")
            alpha = painted.convert("RGBA").getchannel("A")
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"this is not an image that can be read: {str(error).partition(' <_io')[0]}") from None
    made.putalpha(alpha if alpha.size == made.size else alpha.resize(made.size))
    data = io.BytesIO()
    made.save(data, "PNG", pnginfo=texts, compress_level=4)
    file.write_bytes(data.getvalue())
    return file


def original_of(form: Form, here: Directories) -> Path:
    """The file that a form's "original_ref" names. ValueError if there is none."""
    try:
        reference = json.loads(form.fields.get("original_ref", ""))
    except ValueError:
        reference = None
    if not isinstance(reference, dict) or not isinstance(name := reference.get("filename"), str):
        raise ValueError("original_ref must be an object with the filename of the original image")
    name, kind = annotated(name)
    if not name or name.startswith("/") or re.search(r"(^|/)\.\.(/|$)", name):
        raise ValueError("original_ref must name a file by its filename, subfolder and type")
    path = inside(
        here.root(kind or str(reference.get("type") or "output")), str(reference.get("subfolder") or ""), name
    )
    if not path.is_file():
        raise ValueError(f"there is no image {name} for the mask")
    return path


def routes() -> list[web.RouteDef]:
    """The routes of uploads."""
    return [web.post("/upload/image", image), web.post("/upload/mask", mask)]
