"""EXIF data put into the AVIF files that FFmpeg writes, which have none (ISO/IEC 14496-12 and 23008-12, A.2.1)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

EXIF = 1
"""Number of the item in a sequence, which has no others."""


def with_exif(data: bytes, exif: bytes) -> bytes:
    """The file with EXIF data.

    The boxes that describe images, `meta` and of a sequence `moov`, are written again at the end, and the first ones
    become free space, so that no other offset in the file changes.

    Args:
        data: A file as FFmpeg writes it.
        exif: The data, with or without "Exif" in front.

    Raises:
        ValueError: The file has another form than FFmpeg's.
    """
    payload = bytes(4) + exif.removeprefix(b"Exif\0\0")  # after an offset to the data, 0
    offset, end = len(data) + 8, _box(b"mdat", payload)
    made = bytearray(data)
    for kind, start, stop in list(_boxes(data, 0)):
        if kind in (b"meta", b"moov"):
            made[start + 4 : start + 8] = b"free"
            change = _image if kind == b"meta" else _sequence
            end += change(data[start:stop], offset, len(payload))
    return bytes(made) + end


def _image(meta: bytes, offset: int, length: int) -> bytes:
    """The box of an image with the item of the EXIF data, which is about the primary item."""
    parts = {kind: meta[start:stop] for kind, start, stop in _boxes(meta, 12)}
    if not {b"pitm", b"iinf", b"iloc"} <= parts.keys() or parts[b"iloc"][8:14] != b"\0\0\0\0\x44\0":
        raise ValueError("this FFmpeg writes AVIF files of another form, into which the workflow cannot be put")
    count = int.from_bytes(parts[b"iinf"][12:14], "big")
    item = count + 1
    parts[b"iinf"] = _items(parts[b"iinf"][14:], count, item)
    parts[b"iloc"] = _places(parts[b"iloc"][16:], count, item, offset, length)
    parts[b"iref"] = _box(b"iref", bytes(4) + _box(b"cdsc", struct.pack(">HH", item, 1) + parts[b"pitm"][12:14]))
    return _box(b"meta", meta[8:12] + b"".join(parts.values()))


def _sequence(moov: bytes, offset: int, length: int) -> bytes:
    """The box of a sequence, of which each track gets a box with the EXIF data."""
    handler = _box(b"hdlr", bytes(8) + b"pict" + bytes(13))
    meta = _box(b"meta", bytes(4) + handler + _items(b"", 0, EXIF) + _places(b"", 0, EXIF, offset, length))
    parts = [(kind, moov[start + 8 : stop]) for kind, start, stop in _boxes(moov, 8)]
    return _box(b"moov", b"".join(_box(kind, each + meta if kind == b"trak" else each) for kind, each in parts))


def _items(others: bytes, count: int, item: int) -> bytes:
    """The box that lists items, with one of EXIF data."""
    entry = _box(b"infe", struct.pack(">IHH4s", 2 << 24, item, 0, b"Exif") + b"\0")
    return _box(b"iinf", bytes(4) + struct.pack(">H", count + 1) + others + entry)


def _places(others: bytes, count: int, item: int, offset: int, length: int) -> bytes:
    """The box of the items' places with one more: version 0, offsets and lengths of 4 bytes."""
    entry = struct.pack(">HHHII", item, 0, 1, offset, length)
    return _box(b"iloc", b"\0\0\0\0\x44\0" + struct.pack(">H", count + 1) + others + entry)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _boxes(data: bytes, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each box from an offset on."""
    while start < len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        if size < 8:
            raise ValueError(f"a box of an AVIF file says that it has {size} bytes")
        yield data[start + 4 : start + 8], start, start + size
        start += size
