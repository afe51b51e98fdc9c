"""Images that clients have uploaded: checked when they arrive, kept by their digest, apart for each owner."""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sigmafield.core.registry import shown
from sigmafield.recipes.image_io import MOVING, decoded_frames, digest
from sigmafield.runs.files import write_whole
from sigmafield.serve.limits import MIB, Limits

PREFIX = "upload:"
"""What the reference of an upload begins with, where a recipe names an image."""

TYPES = {
    "PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif",
    "AVIF": "image/avif", "BMP": "image/bmp", "TIFF": "image/tiff",
}  # fmt: skip
"""Pillow's names of the formats that are accepted, with HTTP's."""

READERS = [name for name in TYPES if name != "MPO"]
"""Pillow's readers of these formats: that of JPEG reads MPO."""

DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Upload:
    """An image that a client has uploaded.

    Args:
        id: SHA-256 of its bytes.
        image: What a recipe names it by: "upload:" and the id.
        media_type: As HTTP names it.
        width: Width in pixels.
        height: Height in pixels.
        frames: Number of frames; 1 for an image.
        size: Bytes.
    """

    id: str
    image: str
    media_type: str
    width: int
    height: int
    frames: int
    size: int


def owner_folder(root: Path, owner: str) -> Path:
    """The folder of an owner's uploads below that of all: the latter itself where owners have no names."""
    return root / hashlib.sha256(owner.encode()).hexdigest()[:32] if owner else root


class Uploads:
    """The uploads of a server; any thread may call any method.

    Args:
        folder: Where they are kept.
        limits: How large they may be.
    """

    def __init__(self, folder: Path, limits: Limits):
        self.folder, self.limits = folder.resolve(), limits
        self._lock = threading.Lock()

    def add(self, data: bytes, owner: str) -> Upload:
        """Keep an image; the same bytes again are the same upload.

        Raises:
            ValueError: It is not an image in one of `TYPES`, is damaged, or is larger than the limits.
        """
        found = examined(data, self.limits)
        path = self._path(found.id, owner)
        with self._lock:
            if not path.exists():
                self._make_room(owner, len(data))
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, data)
            os.utime(path)
        return found

    def path(self, reference: str, owner: str) -> Path:
        """The file of an upload, which counts as used now.

        Args:
            reference: "upload:" and the id.
            owner: Who refers to it.

        Raises:
            ValueError: This owner has no such upload.
        """
        path = self._path(reference.removeprefix(PREFIX), owner)
        try:
            os.utime(path)
        except OSError:
            raise ValueError(f"no upload {shown(reference)}: it was never made here, or is deleted") from None
        return path

    def delete(self, id: str, owner: str) -> None:
        """Delete an upload. LookupError if this owner has no such upload."""
        try:
            self._path(id, owner).unlink()
        except (OSError, ValueError):
            raise LookupError(f"no upload {shown(id)}") from None

    def tidy(self, used: Callable[[str], bool]) -> None:
        """Delete uploads that were not used for `Limits.keep_uploads` hours.

        Args:
            used: Whether an unfinished job needs the upload of this id, which is then kept.
        """
        oldest = time.time() - 3600 * self.limits.keep_uploads
        for path in self.folder.rglob("*"):
            with self._lock:
                if path.is_file() and not used(path.name) and path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)

    def reference(self, path: str) -> str | None:
        """The reference of an upload's file; None for other files."""
        file = Path(path)
        return PREFIX + file.name if file.is_relative_to(self.folder) and DIGEST.fullmatch(file.name) else None

    def _path(self, id: str, owner: str) -> Path:
        if not DIGEST.fullmatch(id):
            raise ValueError(f"an upload is {PREFIX} and 64 hexadecimal digits; got {shown(PREFIX + id)}")
        return owner_folder(self.folder, owner) / id

    def _make_room(self, owner: str, size: int) -> None:
        folder = owner_folder(self.folder, owner)
        there = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
        if there + size > self.limits.upload_space * MIB:
            raise ValueError(f"uploads may take {self.limits.upload_space} MiB on this server: delete some first")


def examined(data: bytes, limits: Limits) -> Upload:
    """What an image's bytes are, decoded whole after its header was found to be within the limits.

    Raises:
        ValueError: They are not an image in one of `TYPES`, are damaged, or have too many pixels or frames.
    """
    kind, width, height, frames = header(data, limits)
    check_pixels(width, height, frames, limits)
    read = decoded_frames(data, "the upload")
    width, height = read[0].size  # as EXIF turns it
    found = digest(data)
    return Upload(found, PREFIX + found, TYPES[kind], width, height, len(read), len(data))


def header(data: bytes, limits: Limits | None = None) -> tuple[str, int, int, int]:
    """(Pillow's name of the format, width, height, number of frames) of an image, of which no pixel is decoded.

    Args:
        data: A file's bytes.
        limits: Checked for one frame before frames are counted, which may take decoding.

    Raises:
        ValueError: They are not an image in one of `TYPES`, or one frame is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are judged by the limits
            with Image.open(io.BytesIO(data), formats=READERS) as image:
                kind, (width, height) = str(image.format), image.size
                if limits is not None:
                    check_pixels(width, height, 1, limits)
                return kind, width, height, int(getattr(image, "n_frames", 1)) if kind in MOVING else 1
    except TooLarge:
        raise
    except Exception as error:  # damaged files make Pillow's readers raise nearly every type of error
        known = ", ".join(name for name in TYPES if name != "MPO")
        raise ValueError(f"this is not an image that can be read ({known}): {_reason(error)}") from None


class TooLarge(ValueError):
    """An image has more pixels or frames than it may."""


def check_pixels(width: int, height: int, frames: int, limits: Limits) -> None:
    """Raise TooLarge for an image of more pixels or frames than are allowed."""
    if frames > limits.max_frames:
        raise TooLarge(f"an image may have {limits.max_frames} frames on this server; this one has {frames}")
    if width * height * frames > limits.max_pixels:
        moving = f" and {frames} frames" if frames > 1 else ""
        raise TooLarge(
            f"an image may have {limits.max_pixels} pixels on this server; this one has {width}x{height}{moving}"
        )


def _reason(error: Exception) -> str:
    return str(error).partition(" <_io")[0] or type(error).__name__
