"""Images that a recipe is given in memory: a recipe names them by their digest, and they go with that name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sigmafield.recipes.image_io import digest, upright

PREFIX = "memory:"
"""What the name of an image in memory begins with."""


@runtime_checkable
class BinaryFile(Protocol):
    """A file that is open for reading bytes."""

    def read(self, size: int = -1, /) -> bytes: ...


ImageSource = str | Path | Image.Image | np.ndarray | Tensor | bytes | BinaryFile
"""An image as a path, in memory, or as what a file holds; see `image_source`."""

Content = bytes | tuple[Image.Image, ...] | Tensor
"""What an image in memory is kept as: a file's bytes, frames, or a mask [1, H, W] in 0 … 1."""


class InMemory(str):
    """The name of an image in memory, "memory:" and its SHA-256, with the image itself.

    It is the name alone for everything that compares, prints or stores a recipe.

    Args:
        sha256: Digest of the file's bytes, or of the pixels.
        content: The image.
    """

    content: Content

    def __new__(cls, sha256: str, content: Content) -> InMemory:
        made = super().__new__(cls, PREFIX + sha256)
        made.content = content
        return made

    def __getnewargs__(self) -> tuple[str, Content]:  # type: ignore[override]
        return self.sha256, self.content

    @property
    def sha256(self) -> str:
        """The digest that the name has."""
        return self.removeprefix(PREFIX)


def image_source(name: str, value: object, mask: bool = False) -> str | None:
    """A recipe's entry for an image: a path as text, or the name of an image in memory.

    Args:
        name: The entry, for errors.
        value: A path; a Pillow image, of which a copy is kept; a file's bytes, or a file that is open for them; an
            array [H, W], [H, W, 1, 3 or 4] or [frames, H, W, …]; a tensor [H, W], [1, 3 or 4, H, W], the same with a
            batch of 1, or [1, 3, frames, H, W]. Arrays and tensors hold uint8, uint16, true and false, or
            floating-point numbers in 0 … 1; images are kept with 8 bits per channel, masks as they are.
        mask: Whether it is a mask or a map, which may be an array [1, H, W] too.

    Raises:
        ValueError: It is something else.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _of_bytes(name, bytes(value))
    if isinstance(value, Image.Image):
        return _of_frames([_snapshot(name, value)])
    if isinstance(value, (np.ndarray, Tensor)):
        pixels = _pixels(name, value)
        if mask and pixels.shape[0] == 1 and pixels.shape[-1] == 1:
            return _of_mask(torch.from_numpy(_in_unit(name, pixels)[..., 0]))
        return _of_frames([_image(name, frame) for frame in pixels])
    if isinstance(value, BinaryFile):
        data = value.read()
        if isinstance(data, bytes):
            return _of_bytes(name, data)
        raise ValueError(f"{name} must be a file that is open for bytes, mode 'rb'; reading it gives {_short(data)}")
    raise ValueError(
        f"{name} must be a path, a Pillow image, an array, a tensor, bytes or an open file; got {_short(value)}"
    )


def pixel_digest(frames: Sequence[Image.Image]) -> str:
    """SHA-256 of the pixels of images, with their modes and sizes."""
    found = hashlib.sha256()
    for frame in frames:
        found.update(f"{frame.mode} {frame.width}x{frame.height} ".encode())
        found.update(frame.tobytes())
    return found.hexdigest()


def _of_bytes(name: str, data: bytes) -> InMemory:
    if not data:
        raise ValueError(f"{name} must be the bytes of an image; got none, or a file that was read to its end before")
    return InMemory(digest(data), data)


def _of_frames(frames: Sequence[Image.Image]) -> InMemory:
    return InMemory(pixel_digest(frames), tuple(frames))


def _of_mask(mask: Tensor) -> InMemory:
    shape = "x".join(map(str, mask.shape)).encode()
    return InMemory(digest(shape + mask.numpy().tobytes()), mask)


def _snapshot(name: str, image: Image.Image) -> Image.Image:
    """A copy that later changes of the image do not reach."""
    try:
        return upright(image).copy()
    except Exception as error:  # an image that is only read now, from a damaged file
        raise ValueError(f"cannot read {name} as an image: {error}") from None


def _pixels(name: str, value: NDArray[Any] | Tensor) -> NDArray[Any]:
    """An array or a tensor as [frames, H, W, channels]."""
    given = tuple(value.shape)
    if isinstance(value, Tensor):
        pixels, rule = value.detach().cpu(), "[H, W], [C, H, W], [1, C, H, W] or [1, C, frames, H, W]"
        pixels = pixels.float() if pixels.dtype == torch.bfloat16 else pixels
        pixels = pixels[None, None] if pixels.ndim == 2 else pixels[None] if pixels.ndim == 3 else pixels
        pixels = pixels[:, :, None] if pixels.ndim == 4 else pixels
        frames = pixels[0].permute(1, 2, 3, 0).numpy() if pixels.ndim == 5 and pixels.shape[0] == 1 else None
    else:
        rule = "[H, W], [H, W, C] or [frames, H, W, C]"
        frames = value[None, ..., None] if value.ndim == 2 else value[None] if value.ndim == 3 else value
        if value.ndim == 3 and given[0] == 1 and given[2] not in (1, 3, 4):  # a mask [1, H, W]
            frames = value[..., None]
    if frames is None or frames.ndim != 4 or frames.shape[-1] not in (1, 3, 4) or 0 in frames.shape:
        raise ValueError(f"{name} must be {rule} with C = 1, 3 or 4; got {type(value).__name__} of shape {given}")
    return frames


def _in_unit(name: str, pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Values as floating-point numbers in 0 … 1."""
    if pixels.dtype in (np.uint8, np.uint16):
        return (pixels / np.float64(np.iinfo(pixels.dtype).max)).astype(np.float32)
    if pixels.dtype != np.bool_ and not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"{name} must hold uint8, uint16, true and false, or floats in 0 … 1; got {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())
    if not 0 <= low <= high <= 1:
        hint = ": divide by 255" if 1 < high <= 255 and low >= 0 else ""
        raise ValueError(f"{name} must hold floating-point numbers in 0 … 1; got {low:g} … {high:g}{hint}")
    return pixels.astype(np.float32)


def _image(name: str, frame: NDArray[Any]) -> Image.Image:
    """An image from pixels [H, W, channels]."""
    pixels = frame if frame.dtype == np.uint8 else (_in_unit(name, frame) * 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def _short(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '…'}"
