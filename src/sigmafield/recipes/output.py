"""Images out: files of several formats that carry the recipe, and images in memory that carry it into any file."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image, ImageSequence, PngImagePlugin, features

from sigmafield.core.registry import nearest
from sigmafield.recipes.image_io import open_image, sheet, sheets
from sigmafield.recipes.image_texts import exif_of
from sigmafield.recipes.label import label
from sigmafield.recipes.recipe import Recipe
from sigmafield.runs.files import write_whole

KEY = "sigmafield"
"""Name of the PNG text chunk, and of the XMP property, that holds the recipe."""

DURATION = 62.5
"""Milliseconds that a frame of a video is shown: 16 a second, as Wan was trained."""

FORMATS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".avif": ("AVIF", {"quality": 90, "subsampling": "4:4:4"}),
}
"""Pillow's name of the format, and how it is written, by the ending of the file."""

ENDINGS: Mapping[str, str] = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "AVIF": ".avif"}
"""The ending of a file by Pillow's name of the format that it is in."""

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:sigmafield="urn:sigmafield"><sigmafield:recipe>{}</sigmafield:recipe>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)

XMP_LIMIT = 65000
"""Bytes of XMP that a JPEG has room for."""


class CarryingImage(Image.Image):
    """A Pillow image with a recipe, which `save` writes into PNG, JPEG, WebP and AVIF files.

    Images that are made of it (resized, cropped, filtered) are plain images.

    Args:
        image: The image.
        text: The recipe's JSON, see `label`; it is in `info["sigmafield"]` as well.
    """

    def __init__(self, image: Image.Image, text: str):
        super().__init__()
        self.__setstate__(image.__getstate__())
        self.info[KEY] = text

    def copy(self) -> CarryingImage:
        """A copy with the same recipe."""
        return CarryingImage(self, str(self.info[KEY]))

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """Save the image with its recipe; arguments as for Pillow's `save`, and what they say about metadata wins."""
        super().save(fp, format, **{**metadata(str(self.info[KEY])), **params})


def metadata(text: str, more: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """Arguments of Pillow's `save` that write a recipe: a PNG takes the text chunks, other formats take XMP and EXIF.

    Args:
        text: The recipe's JSON.
        more: Further texts in ASCII, by name, as ComfyUI writes them.
    """
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, text)
    for name, value in more.items():
        info.add_text(name, value)
    packet = xmp_of(text)
    exif = {"exif": exif_of(more).tobytes()} if more else {}
    return {"pnginfo": info, **exif, **({"xmp": packet} if len(packet) <= XMP_LIMIT else {})}


def xmp_of(text: str) -> bytes:
    """An XMP packet that holds a JSON text, in ASCII."""
    plain = json.dumps(json.loads(text)) if text else ""
    return XMP.format(html.escape(plain, quote=False)).encode("ascii")


def carrying(images: Sequence[Sequence[Image.Image]], recipe: Recipe) -> list[list[Image.Image]]:
    """The images of a batch, each a list of frames, with the recipe that drew them."""
    return [[CarryingImage(frame, label(recipe, k)) for frame in frames] for k, frames in enumerate(images)]


def recipe_of(path: str | Path) -> str:
    """The JSON that an image file carries. ValueError if it carries none."""
    info = open_image(path).info
    if isinstance(text := info.get(KEY), str):
        return text
    packet = info.get("xmp", b"")
    packet = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet)
    if found := re.search(r"<sigmafield:recipe>(.*?)</sigmafield:recipe>", packet, re.DOTALL):
        return html.unescape(found[1])
    raise ValueError(f"{path} carries no sigmafield recipe: only images written by sigmafield can be replayed")


def check_format(path: Path, moving: bool = False, recipe: Recipe | None = None) -> None:
    """Raise ValueError for a file of no known format, or of one that cannot hold a video or the recipe.

    Args:
        path: The file, whose ending says its format.
        moving: Whether it holds frames.
        recipe: What it carries.
    """
    known = ", ".join(FORMATS)
    ending = path.suffix.lower()
    if ending not in FORMATS:
        said = f"ends in {ending!r}{nearest(ending, FORMATS)}" if ending else "has no ending"
        raise ValueError(f"an image file must end in one of {known}; {path} {said}")
    if ending == ".avif" and not features.check("avif"):
        raise ValueError(f"this Pillow cannot write AVIF; it needs pillow ≥ 11.3, or give {path.stem}.png")
    if FORMATS[ending][0] == "JPEG" and moving:
        raise ValueError(f"a JPEG holds one image and not a video: give {path.stem}.png, .webp or .avif")
    if FORMATS[ending][0] == "JPEG" and recipe is not None and len(xmp_of(label(recipe, None))) > XMP_LIMIT:
        raise ValueError(f"a JPEG has room for {XMP_LIMIT} bytes of recipe, and this one is longer: give a .png")


def encoded(
    frames: Sequence[Image.Image], ending: str, text: str = "", more: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """The bytes of an image file, animated for several frames.

    Args:
        frames: An image, or the frames of a video.
        ending: One of `FORMATS`.
        text: The recipe's JSON; "" for none.
        more: Further texts in ASCII, by name, that go with a recipe; a JPEG, in which ComfyUI reads none, has none.
    """
    kind, how = FORMATS[ending.lower()]
    given = metadata(text, {} if kind == "JPEG" else more) if text else {}
    if kind == "PNG":
        given.pop("exif", None)
    moving = {"save_all": True, "append_images": frames[1:], "duration": DURATION} if len(frames) > 1 else {}
    buffer = io.BytesIO()
    Image.Image.save(frames[0], buffer, kind, **how, **moving, **given)
    return buffer.getvalue()


def as_read(frames: Sequence[Image.Image], ending: str) -> list[Image.Image]:
    """An image, or the frames of a video, as a file with that ending gives them back: some formats lose a little."""
    with Image.open(io.BytesIO(encoded(frames, ending))) as image:
        return [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]


def files_of(
    images: Sequence[Sequence[Image.Image]],
    ending: str,
    recipe: Recipe,
    more: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, bytes]:
    """What is written for a batch, by what follows the name: one file, or a sheet of all and one file each.

    All carry the recipe. A video also has "-frames", a sheet of all of its frames.

    Args:
        images: For each image of the batch its frames.
        ending: One of `FORMATS`.
        recipe: What drew them.
        more: Further texts that each file with the recipe carries, see `encoded`.
    """
    several = len(images) > 1
    whole = sheets(images) if several else images[0]
    files = {"": encoded(whole, ending, label(recipe, None if several else 0), more)}
    for k, frames in enumerate(images if several else ()):
        files[f"-{k + 1}"] = encoded(frames, ending, label(recipe, k), more)
    if len(whole) > 1:
        files["-frames"] = encoded([sheet(whole)], ending)
    return files


def save_image(image: Image.Image, path: str | Path, recipe: str = "", more: Sequence[Image.Image] = ()) -> None:
    """Write an image whole or not at all, in the format of the path's ending.

    Args:
        image: The image, or the first frame of an animation.
        path: The file; one that exists is replaced.
        recipe: The recipe's JSON, which the file carries.
        more: The further frames.

    Raises:
        ValueError: The ending is unknown.
        OSError: The file cannot be written.
    """
    check_format(Path(path), moving=bool(more))
    write_whole(Path(path), encoded([image, *more], Path(path).suffix, recipe))
