"""Grey images with more than 8 bits, scaled to 0 … 1 by what their mode can hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS_8, BITS_16, SIGNED_16, SIGNED_32, UNSIGNED_32 = 255, 2**16 - 1, 2**15 - 1, 2**31 - 1, 2**32 - 1
"""Largest values of integers."""

TIFF_BITS, TIFF_FORMAT, UNSIGNED = 258, 339, 1
"""Tags of a TIFF file: bits of a sample, kind of number, and its value for unsigned integers."""

ROUNDING = 1 / 255
"""How far floating-point values may lie outside 0 … 1, as filters overshoot."""


def is_deep(image: Image.Image) -> bool:
    """Whether an image holds grey values of more than 8 bits, which Pillow's own conversions cut off at 255."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def grey_levels(image: Image.Image) -> NDArray[np.float32]:
    """Grey values [H, W] of a deep image in 0 … 1: divided by the largest value that they can have.

    That is 65535 for 16 bits. 32-bit integers and floating-point numbers often hold what had fewer bits, so it is the
    first of these that is not exceeded: 255, 65535 and 2³¹ − 1 (2³² − 1 where a TIFF says that they are unsigned) for
    integers; 1, 255 and 65535 for floating-point numbers.

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
    unsigned = tags.get(TIFF_FORMAT, 0) in (UNSIGNED, (UNSIGNED,))
    values = values.astype(np.int32).view(np.uint32) if unsigned else values
    low, high = int(values.min()), int(values.max())
    if low < 0:
        raise ValueError(f"grey values must be at least 0; got {low} … {high}")
    ranges = (BITS_8, BITS_16, UNSIGNED_32 if unsigned else SIGNED_32)
    if tags.get(TIFF_BITS) == (16,):
        ranges = (SIGNED_16, BITS_16)
    elif image.format == "PPM":  # Pillow scales more than 8 bits to 16
        ranges = (BITS_16,)
    largest = next(most for most in ranges if high <= most)
    return (values.astype(np.float64) / largest).astype(np.float32)


def _from_floats(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = float(values.min()), float(values.max())
    if not -ROUNDING <= low <= high <= BITS_16:  # not a number fails too
        raise ValueError(f"floating-point grey values must be 0 … 1, 0 … 255 or 0 … 65535; got {low:g} … {high:g}")
    largest = next(n for n in (1, BITS_8, BITS_16) if high <= n + ROUNDING)
    return np.clip(values / largest, 0, 1).astype(np.float32)
