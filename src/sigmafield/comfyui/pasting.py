"""Putting one tensor onto a part of another, as ComfyUI's nodes for latents, images and masks do it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sigmafield.comfyui.scaling import scaled
from sigmafield.core.linear import filled
from sigmafield.core.resize import resize_mask


def overlap(size: Sequence[int], part: Sequence[int], x: int, y: int) -> tuple[slice, slice, slice, slice]:
    """Where a part that lies at (x, y) overlaps the whole: rows and columns of the whole, rows and columns of the part.

    Args:
        size: (height, width) of the whole.
        part: (height, width) of the part.
        x: Column of the whole at which the part begins; may be negative.
        y: Row likewise.
    """
    top, bottom = max(0, y), max(0, min(size[0], y + part[0]))
    left, right = max(0, x), max(0, min(size[1], x + part[1]))
    return slice(top, bottom), slice(left, right), slice(top - y, bottom - y), slice(left - x, right - x)


def pasted(
    destination: Tensor, source: Tensor, x: int, y: int, mask: Tensor | None = None, resize_source: bool = False
) -> Tensor:
    """The destination with the source on it: m s + (1 − m) d where both are.

    Args:
        destination: [B, C, H, W], or [B, C, frames, H, W].
        source: Likewise, of another size; its batch is repeated and cut.
        x: Column of the destination at which the source begins.
        y: Row likewise.
        mask: m, [b, h, w] or [h, w], resized to the source's size; None is 1.
        resize_source: Whether the source is resized to the size of the destination.
    """
    height, width = destination.shape[-2:]
    if resize_source:
        source = scaled(source, width, height, "bilinear")
    source = filled(source, len(destination), 0)
    rows, columns, source_rows, source_columns = overlap((height, width), source.shape[-2:], x, y)
    part, there = source[..., source_rows, source_columns], destination[..., rows, columns]
    if mask is not None:
        m = resize_mask(mask.reshape(-1, *mask.shape[-2:]), source.shape[-2:]).to(destination)
        m = filled(m, len(destination), 0)[..., source_rows, source_columns]
        m = m.reshape(len(m), *[1] * (destination.ndim - 3), *m.shape[-2:])
        part = m * part + (1 - m) * there
    out = destination.clone()
    out[..., rows, columns] = part
    return out


def feathered(size: Sequence[int], left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> Tensor:
    """Weights [h, w] that rise from the edges: 1/n, 2/n, … n/n over the n rows or columns next to each, multiplied.

    Args:
        size: (height, width).
        left: n at the left edge; 0 leaves an edge at 1.
        top: At the upper edge.
        right: At the right edge.
        bottom: At the lower edge.
    """
    height, width = size
    rows = _ramp(height, top) * _ramp(height, bottom).flip(0)
    return rows[:, None] * _ramp(width, left) * _ramp(width, right).flip(0)


def _ramp(length: int, n: int) -> Tensor:
    return ((torch.arange(length) + 1) / max(n, 1)).clamp(max=1)
