"""Images in memory: files → Pillow images ↔ tensors, contact sheets; `output` writes files."""

from __future__ import annotations

import hashlib
import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor

from sigmafield.recipes.bit_depth import grey_levels, is_deep

T = TypeVar("T")

MOVING = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")
"""Formats whose further images are frames; in others, such as a camera's MPO, they are previews or layers."""

PROGRAMS = ("EPS", "WMF")
"""Formats that Pillow leaves to another program, which are not opened."""

MaskFrom = Literal["auto", "brightness", "alpha", "inverted_alpha"]
"""What of an image is a mask, see `to_mask`."""

SAME_COLOUR = 16
"""Levels of 255 that colours may differ by and still be one paint, as lossy files store it."""


def to_images(images: Tensor) -> list[Image.Image]:
    """Pillow images from a tensor [B, 3, H, W] in [0, 1]; values outside are clipped.

    Of videos [B, 3, frames, H, W]: the frames of the first, then those of the second, …
    """
    images = images.movedim(2, 1).flatten(0, 1) if images.ndim == 5 else images
    pixels = images.detach().float().cpu().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(image) for image in pixels]


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB; transparent parts become white. ValueError as `grey_levels`."""
    if is_deep(image):
        return Image.fromarray((grey_levels(image) * 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = to_rgba(image)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """Tensor [1, 3, H, W] in [0, 1] from a Pillow image of any mode, scaled by what the mode can hold.

    Transparent parts become white.

    Raises:
        ValueError: Grey values of more than 8 bits are not of a known range, see `grey_levels`.
    """
    if is_deep(image):
        return torch.from_numpy(grey_levels(image)).expand(1, 3, -1, -1).contiguous()
    return torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1)[None].float() / 255


def to_mask(image: Image.Image, source: MaskFrom = "auto") -> Tensor:
    """Tensor [1, H, W] in [0, 1] of a mask, 1 = draw, from an image of any mode.

    Args:
        image: The image.
        source: What is read: its brightness, white = 1, over black where it is transparent; its alpha, 1 where it is
            painted; or 1 − alpha, as ComfyUI's LoadImage does. "auto" is alpha where all that is visible has one
            colour and the alpha differs, as in a layer that was painted on; else brightness.

    Raises:
        ValueError: Alpha of an image without transparency, or grey values as for `grey_levels`.
    """
    transparent = image.has_transparency_data and not is_deep(image)
    if source in ("alpha", "inverted_alpha") and not transparent:
        raise ValueError(f"mask_from {source!r} needs an image with transparency; this one, {image.mode}, has none")
    if is_deep(image):
        return torch.from_numpy(grey_levels(image))[None]
    if not transparent:
        return _unit(image.convert("RGB") if image.mode == "LAB" else image)
    pixels = np.array(to_rgba(image))
    alpha = pixels[..., 3]
    if source == "auto" and painted_in_alpha(pixels):
        source = "alpha"
    if source in ("alpha", "inverted_alpha"):
        return _unit(Image.fromarray(alpha if source == "alpha" else 255 - alpha))
    colours = Image.fromarray(pixels[..., :3])
    if alpha.min() == alpha.max():  # an even veil is not a part of the mask
        return _unit(colours)
    return _unit(colours) * _unit(Image.fromarray(alpha))


def painted_in_alpha(pixels: NDArray[np.uint8]) -> bool:
    """Whether RGBA pixels [H, W, 4] are one colour, as far as they are visible, of alpha that differs."""
    colours, alpha = pixels[..., :3], pixels[..., 3]
    if alpha.min() == alpha.max():
        return False
    visible = colours[alpha >= 128] if (alpha >= 128).any() else colours[alpha > 0]
    return bool((np.ptp(visible, axis=0) <= SAME_COLOUR).all())


def to_rgba(image: Image.Image) -> Image.Image:
    """An image of any 8-bit mode as RGBA."""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _unit(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("L")))[None].float() / 255


def open_image(path: str | Path) -> Image.Image:
    """The image of a file, or the first one of several, read whole and turned as its EXIF orientation says.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It cannot be read as an image, or has more pixels than Pillow reads.
    """
    return decoded(read_bytes(path), str(path))


def open_frames(path: str | Path) -> list[Image.Image]:
    """The frames of an animation, or the one image of a file; errors as `open_image`."""
    return decoded_frames(read_bytes(path), str(path))


def read_bytes(path: str | Path) -> bytes:
    """What an image's file holds. FileNotFoundError or ValueError if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no image at {path}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path} as an image: {error}") from None


def decoded(data: bytes, name: str) -> Image.Image:
    """The image of a file's bytes; `name` is the file's, for errors, which are those of `open_image`."""
    return _guarded(data, name, upright)


def decoded_frames(data: bytes, name: str) -> list[Image.Image]:
    """The frames of a file's bytes; `name` is the file's, for errors, which are those of `open_image`."""
    return _guarded(data, name, lambda image: _frames(image, to_rgb))


def open_unconverted(path: str | Path) -> list[Image.Image]:
    """The frames of an animation in the modes that they have there, or the one image of a file; as `open_frames`."""
    return _guarded(read_bytes(path), str(path), lambda image: _frames(image, Image.Image.copy))


def _frames(image: Image.Image, change: Callable[[Image.Image], Image.Image]) -> list[Image.Image]:
    """The frames of an open file, each changed while it is the current one; a single image as it is."""
    if image.format not in MOVING or getattr(image, "n_frames", 1) == 1:
        return [upright(image)]
    return [change(upright(frame)) for frame in ImageSequence.Iterator(image)]


def _guarded(data: bytes, name: str, read: Callable[[Image.Image], T]) -> T:
    """What is read of the image in a file's bytes; any error is a ValueError."""
    Image.init()
    file, formats = io.BytesIO(data), [kind for kind in Image.OPEN if kind not in PROGRAMS]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes below the limit, and damage that does not matter
            image = Image.open(file, formats=formats)
            image.load()
            return read(image)
    except Image.DecompressionBombError as error:
        there = re.findall(r"\d+", str(error))
        count, most = (f"{int(number) / 1e6:.0f} million" for number in there[:2])
        raise ValueError(f"{name} has {count} pixels, and at most {most} are read: make it smaller first") from None
    except Exception as error:  # damaged files make Pillow's readers raise nearly every type of error
        reason = str(error).partition(" <_io")[0] or type(error).__name__
        raise ValueError(f"cannot read {name} as an image: {reason}") from None


def upright(image: Image.Image) -> Image.Image:
    """The image turned and mirrored as its EXIF orientation says."""
    return ImageOps.exif_transpose(image) if image.getexif().get(0x112, 1) != 1 else image


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An image at (height, width), by Lanczos' filter; itself where it has that size."""
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def sheet(images: Sequence[Image.Image], columns: int | None = None, gap: int = 4) -> Image.Image:
    """One image with all of the same size in rows, on white; default as near to a square as it goes."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    page = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for k, image in enumerate(images):
        page.paste(image, (k % columns * (width + gap), k // columns * (height + gap)))
    return page


def sheets(images: Sequence[Sequence[Image.Image]]) -> list[Image.Image]:
    """A sheet of all images for each frame."""
    return [sheet(frame) for frame in zip(*images)]


def digest(data: bytes) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()
