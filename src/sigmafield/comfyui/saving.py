"""Files that nodes read and write: names with counters, and paths with "[output]" after them."""

from __future__ import annotations

import io
import json
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from sigmafield.comfyui.context import Context, Folders
from sigmafield.core.registry import shown
from sigmafield.runs.files import write_at

LONGEST_NAME = 200
"""Bytes of a name in a prefix: file systems take 255, with the counter, the ending and a temporary name's own."""


class Place(NamedTuple):
    """Where a node's next file goes.

    folder: its directory. base: its name up to the counter. counter: of the first file. subfolder: of the directory
    below the output directory, as an interface shows it.
    """

    folder: Path
    base: str
    counter: int
    subfolder: str

    def save(self, k: int, ending: str, data: bytes, kind: str = "output") -> dict[str, str]:
        """Write the k-th file, and describe it as an interface shows it.

        Where another run has taken its number in the meantime, it gets the next free one.

        Args:
            k: Its number among the files of the node.
            ending: What follows the counter: "_.png" for images.
            data: Its bytes.
            kind: "output" or "temp".
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        base = self.base.replace("%batch_num%", str(k))
        names = (f"{base}_{number:05}{ending}" for number in count(self.counter + k))
        name = next(name for name in names if write_at({self.folder / name: data}))
        return {"filename": name, "subfolder": self.subfolder, "type": kind}


def place(prefix: str, root: Path, width: int = 0, height: int = 0) -> Place:
    """The place of a file below a directory; the counter follows the largest that is there.

    Args:
        prefix: A node's filename_prefix: a path with %width%, %height%, %year%, %month%, %day%, %hour%, %minute% and
            %second%.
        root: The directory.
        width: What %width% stands for.
        height: What %height% stands for.

    Raises:
        ValueError: The prefix leads out of the directory.
    """
    now = datetime.now()
    names = {"width": str(width), "height": str(height), "year": str(now.year)}
    names |= {name: f"{getattr(now, name):02}" for name in ("month", "day", "hour", "minute", "second")}
    for name, value in names.items():
        prefix = prefix.replace(f"%{name}%", value)
    path = below(prefix, root)
    folder = root / path.parent
    subfolder = "" if path.parent == Path() else str(path.parent)
    return Place(folder, path.name, _next(folder, path.name), subfolder)


def below(prefix: str, root: Path) -> Path:
    """The path of a prefix from a directory.

    Raises:
        ValueError: It leads out of the directory, has a NUL character, or a name longer than `LONGEST_NAME`.
    """
    if "\0" in prefix:
        raise ValueError(f"filename_prefix must not have a NUL character; got {shown(prefix)}")
    path = Path(os.path.normpath(prefix))
    if (longest := max((len(os.fsencode(name)) for name in path.parts), default=0)) > LONGEST_NAME:
        raise ValueError(
            f"names in filename_prefix may have at most {LONGEST_NAME} bytes; one in {shown(prefix)} has {longest}"
        )
    if not (root / path.parent).resolve().is_relative_to(root.resolve()):
        raise ValueError(f"filename_prefix must stay in the output folder; got {shown(prefix)}")
    return path


def stays_below(filename_prefix: Any, context: Context) -> bool:
    """Checks a node's filename_prefix, unless another node gives it, before any node runs; errors as for `place`."""
    if isinstance(filename_prefix, str):
        below(filename_prefix, context.folders.output)
    return True


def _next(folder: Path, base: str) -> int:
    """1 + the largest counter of the files named BASE_COUNTER_… or BASE_COUNTER.…"""
    start = f"{os.path.normcase(base)}_"
    names = [os.path.normcase(each.name) for each in folder.iterdir()] if folder.is_dir() else []
    counters = [re.match(r"\d+(?=[_.])", name[len(start) :]) for name in names if name.startswith(start)]
    return 1 + max((int(each[0]) for each in counters if each), default=0)


def located(name: str, folders: Folders) -> Path:
    """The file that "name.png", "name.png [output]" or "name.png [temp]" stands for, in the input folder by default.

    Raises:
        ValueError: The path leads out of its folder.
    """
    found = re.fullmatch(r"(.*?) ?\[(input|output|temp)\]", name)
    file, kind = (found[1], found[2]) if found else (name, "input")
    root: Path = getattr(folders, kind)
    if not (root / file).resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{shown(name)} is not in the {kind} folder")
    return root / file


def png(image: Tensor, texts: Mapping[str, Any], level: int = 4) -> bytes:
    """An image [H, W, C] as a PNG file, in which ComfyUI finds the texts.

    Args:
        image: Values in [0, 1], which are cut to 8 bits.
        texts: JSON values by name: the prompt and the workflow.
        level: Compression, 0 … 9.
    """
    info = PngInfo()
    for key, value in texts.items():
        info.add_text(key, as_json(value))
    file = io.BytesIO()
    to_pillow(image).save(file, "PNG", pnginfo=info, compress_level=level)
    return file.getvalue()


def to_pillow(image: Tensor) -> Image.Image:
    """An image [H, W, C] with values in [0, 1], which are cut to 8 bits."""
    pixels = (image.detach().cpu().float().numpy() * 255).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def png_16(image: Tensor, texts: Mapping[str, Any], level: int = 4) -> bytes:
    """A PNG file as `png` makes it, of 16 bits per channel, which Pillow does not write in colour."""
    height, width, channels = image.shape
    levels = (image.detach().cpu().double().numpy() * 65535).clip(0, 65535).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    colour = {1: 0, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))]
    chunks += [(b"tEXt", f"{key}\0{as_json(value)}".encode("latin-1")) for key, value in texts.items()]
    chunks += [(b"IDAT", zlib.compress(rows, level)), (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def texts_of(prompt: Any, extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is written into a file, by name: the prompt, and further values such as the workflow."""
    return ({} if prompt is None else {"prompt": prompt}) | dict(extra or {})


def as_json(value: Any) -> str:
    """JSON in ASCII, with null in place of numbers that are not finite, which readers of files refuse."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value


def saved_images(
    images: Tensor, prefix: str, root: Path, kind: str, encode: Callable[[Tensor], bytes], ending: str = "_.png"
) -> list[dict[str, str]]:
    """Write images [B, H, W, C] as files and describe them as an interface shows them.

    Args:
        images: The images.
        prefix: A node's filename_prefix.
        root: The directory that it is below.
        kind: "output" or "temp".
        encode: The bytes of a file with an image [H, W, C].
        ending: What follows the counter.
    """
    where = place(prefix, root, images.shape[2], images.shape[1])
    return [where.save(k, ending, encode(image), kind) for k, image in enumerate(images)]
