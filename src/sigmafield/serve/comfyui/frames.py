"""Binary messages of ComfyUI's socket: big-endian numbers, then an image or a text."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image

PREVIEW, TEXT, PREVIEW_ABOUT = 1, 3, 4
"""Kinds of frames: an image alone, a text of a node, and an image with what it is of."""

FORMATS = {"image/jpeg": 1, "image/png": 2}
"""Numbers of the formats of images."""

QUALITY = 95


def image_frame(data: bytes, kind: str) -> bytes:
    """An image for clients that do not know what it is of.

    Args:
        data: Its bytes.
        kind: Their type, "image/jpeg" or "image/png".
    """
    return struct.pack(">II", PREVIEW, FORMATS[kind]) + data


def image_frame_about(data: bytes, kind: str, about: Mapping[str, Any]) -> bytes:
    """An image with its node and prompt; arguments as for `image_frame`."""
    header = json.dumps({**about, "image_type": kind}).encode()
    return struct.pack(">II", PREVIEW_ABOUT, len(header)) + header + data


def text_frame(text: str, *ids: str) -> bytes:
    """A text that a node shows while a prompt runs.

    Args:
        text: The text.
        ids: The node; before it the prompt, for clients that read which one it is.
    """
    names = (id.encode() for id in ids)
    return struct.pack(">I", TEXT) + b"".join(struct.pack(">I", len(each)) + each for each in names) + text.encode()


def jpeg(image: Image.Image) -> bytes:
    """The bytes of a JPEG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
