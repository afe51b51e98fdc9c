"""Grey images with more than 8 bits, scaled to 0 … 1 by what their mode can hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS_16, SIGNED_16, SIGNED_32, UNSIGNED_32 = 65535, 32767, 2**31 - 1, 2**32 - 1
"""Largest values of integers."""

TIFF_BITS, TIFF_FORMAT, UNSIGNED = 258, 339, 1
"""Tags of a TIFF file: bits of a sample, kind of number, and its value for unsigned integers."""

ROUNDING = 1 / 255
"""How far floating-point values may lie outside 0 … 1, as filters overshoot."""


def is_deep(image: Image.Image) -> bool:
    """Whether an image holds grey values of more than 8 bits, which Pillow's own conversions cut off at 255."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def grey_levels(image: Image.Image) -> NDArray[np.float32]:
    """Grey values [H, W] of a deep image in 0 … 1.

        v / 65535   of 16 bits, and of 32-bit integers that are all at most 65535, as programs write 16 bits into them
        v / (2³² − 1) or v / (2³¹ − 1)   of larger 32-bit integers, by whether their file says that they are unsigned
        v, v / 255 or v / 65535   of floating-point numbers: the first of these that is at most 1 everywhere

    Args:
        image: An image of mode I;16, I or F.

    Raises:
        ValueError: A value is negative, above 65535 in floating point, or not a number.
    """
    values = np.asarray(image)
    if image.mode == "F":
        return _from_floats(values)
    if image.mode != "I":  # I;16 in any byte order
        return (values.astype(np.float64) / BITS_16).astype(np.float32)
    tags = getattr(image, "tag_v2", {})
    unsigned = tags.get(TIFF_FORMAT) == UNSIGNED
    values = values.astype(np.int32).view(np.uint32) if unsigned else values
    low, high = int(values.min()), int(values.max())
    if low < 0:
        raise ValueError(f"grey values must be at least 0; got {low} … {high}")
    largest = SIGNED_16 if not unsigned and tags.get(TIFF_BITS) == (16,) else BITS_16
    if high > largest:
        largest = UNSIGNED_32 if unsigned else SIGNED_32
    return (values.astype(np.float64) / largest).astype(np.float32)


def _from_floats(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = float(values.min()), float(values.max())
    if not -ROUNDING <= low <= high <= BITS_16:  # not a number fails too
        raise ValueError(f"floating-point grey values must be 0 … 1, 0 … 255 or 0 … 65535; got {low:g} … {high:g}")
    largest = next(n for n in (1, 255, BITS_16) if high <= n + ROUNDING)
    return np.clip(values / np.float32(largest), 0, 1)
