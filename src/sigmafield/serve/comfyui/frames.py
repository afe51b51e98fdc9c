"""Binary messages of ComfyUI's socket: big-endian numbers, then an image or a text."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image

PREVIEW, PREVIEW_ABOUT = 1, 4
"""Kinds of frames: an image alone, and an image with what it is of."""

JPEG_FORMAT = 1
QUALITY = 95


def image_frame(data: bytes) -> bytes:
    """A JPEG for clients that do not know what it is of."""
    return struct.pack(">II", PREVIEW, JPEG_FORMAT) + data


def image_frame_about(data: bytes, about: Mapping[str, Any]) -> bytes:
    """A JPEG with its node and prompt."""
    header = json.dumps({**about, "image_type": "image/jpeg"}).encode()
    return struct.pack(">II", PREVIEW_ABOUT, len(header)) + header + data


def jpeg(image: Image.Image) -> bytes:
    """The bytes of a JPEG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
