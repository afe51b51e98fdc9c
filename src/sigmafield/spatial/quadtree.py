"""Quadtrees: small boxes where an image has much detail, large ones where it has little."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sigmafield.core.geometry import Box

Content = Callable[[Float[Tensor, "channels h w"]], float]
"""How much detail a part of an image has; 0 where it has one colour."""


def colour_distance(part: Float[Tensor, "channels h w"]) -> float:
    """Mean distance of the pixels' colours from the mean colour."""
    return float((part - part.mean((1, 2), keepdim=True)).square().sum(0).sqrt().mean())


def mean_deviation(part: Float[Tensor, "channels h w"]) -> float:
    """Mean of |value − its channel's mean|."""
    return float((part - part.mean((1, 2), keepdim=True)).abs().mean())


def deviation_255(part: Float[Tensor, "channels h w"]) -> float:
    """Standard deviation of all channels together, for values 0 … 255."""
    return 255 * float(part.var((1, 2), correction=0).sum().sqrt())


def edges(part: Float[Tensor, "channels h w"]) -> float:
    """½ `mean_deviation` + ¹⁄₁₆ of the mean length of the Sobel gradient, which is left out below 8 pixels.

    The gradient at the border is that of a part whose edge goes on beyond it.
    """
    deviation = mean_deviation(part) / 2
    if min(part.shape[1:]) < 8:
        return deviation
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=part.dtype, device=part.device)
    both = torch.stack([sobel, sobel.T])[:, None]
    length = F.conv2d(F.pad(part[:, None], (1, 1, 1, 1), mode="replicate"), both).square().sum(1).sqrt()
    return deviation + float(length.mean()) / 16


CONTENTS: dict[str, Content] = {f.__name__: f for f in (colour_distance, mean_deviation, deviation_255, edges)}


def quadtree(
    image: Float[Tensor, "channels height width"],
    threshold: float = 0.03,
    *,
    max_depth: int = 4,
    min_size: int = 256,
    unit: int = 8,
    content: Content = colour_distance,
    root: Box | None = None,
) -> tuple[Box, ...]:
    """Leaves that make up the image, cut to whole units, in depth-first order: top left, right, bottom left, right.

    Args:
        image: An image or a latent.
        threshold: Content above which a box is split.
        max_depth: How often a box may be split.
        min_size: Least side of a box.
        unit: What sides are multiples of: 8 for the pixels of an image, 1 for a latent.
        content: How much detail a box has, one of `CONTENTS`.
        root: The first box, by default the image; leaves of a larger one (see `square`) are cut to the image.

    Raises:
        ValueError: A number is out of range, or the image is smaller than one unit.
    """
    if threshold < 0 or max_depth < 0 or min_size < 1 or unit < 1:
        raise ValueError(
            "threshold and max_depth must be ≥ 0, min_size and unit ≥ 1; "
            f"got {threshold}, {max_depth}, {min_size} and {unit}"
        )
    height, width = (n // unit * unit for n in image.shape[1:])
    if height < 1 or width < 1:
        raise ValueError(f"a quadtree needs an image of at least {unit} by {unit}; got {tuple(image.shape[1:])}")

    def grow(box: Box, depth: int) -> list[Box]:
        y, x, h, w = box
        top, left = (n // 2 // unit * unit for n in (h, w))
        rest = h - top, w - left
        fits = min(top, left) >= max(min_size, unit) and all(n >= unit and n % unit == 0 for n in rest)
        if depth >= max_depth or not fits or _seen(image, box, content) <= threshold:
            return [box]
        four = [
            Box(y, x, top, left),
            Box(y, x + left, top, rest[1]),
            Box(y + top, x, rest[0], left),
            Box(y + top, x + left, *rest),
        ]
        return [leaf for part in four for leaf in grow(part, depth + 1)]

    leaves = [leaf.clipped(height, width) for leaf in grow(root or Box(0, 0, height, width), 0)]
    return tuple(leaf for leaf in leaves if leaf.height > 0 and leaf.width > 0)


def _seen(image: Tensor, box: Box, content: Content) -> float:
    """The content of a box's part in the image; 0 outside."""
    part = box.clipped(*image.shape[1:])
    return content(image[(..., *part.index)]) if part.height > 0 and part.width > 0 else 0.0


def square(height: int, width: int, unit: int = 8) -> Box:
    """The smallest square around an image whose side is a unit times a power of 2."""
    side = unit
    while side < max(height, width):
        side *= 2
    return Box(0, 0, side, side)


def leaf_denoise(
    image: Float[Tensor, "channels height width"],
    leaves: Sequence[Box],
    threshold: float = 0.03,
    low: float = 0.2,
    high: float = 0.8,
    *,
    content: Content = colour_distance,
) -> list[float]:
    """Denoise strength of each leaf: d = low + (high − low) min(1, c/threshold), c the content of the leaf.

    A leaf of one colour has `low`. One that has as much detail as would have split it, and is too small or too deep for
    that, has `high`. It does not depend on the other leaves: an image that has much detail everywhere has `high`
    everywhere.

    Args:
        image: The image of the quadtree.
        leaves: Leaves of its quadtree.
        threshold: The quadtree's; with 0 a leaf has `high` unless it is of one colour.
        low: Strength of a leaf of one colour.
        high: Strength of a leaf with the threshold's content or more.
        content: The quadtree's.

    Raises:
        ValueError: Not 0 ≤ low ≤ high ≤ 1, or the threshold is below 0.
    """
    if not 0 <= low <= high <= 1:
        raise ValueError(f"low and high must be 0 ≤ low ≤ high ≤ 1; got {low} and {high}")
    if threshold < 0:
        raise ValueError(f"threshold must be ≥ 0; got {threshold}")
    shares = [_share(_seen(image, leaf, content), threshold) for leaf in leaves]
    return [high if share == 1 else low + (high - low) * share for share in shares]


def _share(c: float, threshold: float) -> float:
    """min(1, c/threshold), and 0 below a thousandth: rounding gives one colour a little detail."""
    if c >= threshold:
        return 1.0 if c > 0 else 0.0
    return c / threshold if c > threshold / 1000 else 0.0
