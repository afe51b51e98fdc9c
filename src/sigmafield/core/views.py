"""Views of a latent: what a network is shown of it, and how everything else of the latent's size follows.

A view is a crop, a roll, positions of one axis, or every q-th position. `conditioning.transformed` applies a view to a
conditioning, whose concat, mask and hints have to follow the latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmafield.core.geometry import Box
from sigmafield.core.linear import filled


def kept(t: Tensor) -> Tensor:
    """The tensor itself."""
    return t


@dataclass(frozen=True)
class View:
    """What a network is shown of a latent.

    Args:
        latent: A tensor [..., *space] of the latent's size → what is shown of it.
        hint: (a hint [B, 3, factor · height, factor · width], factor) → the hint for what is shown.
        rows: A tensor with a row for each sample, or one row for all → the rows of the samples that are shown.
    """

    latent: Callable[[Tensor], Tensor] = kept
    hint: Callable[[Tensor, int], Tensor] = lambda hint, factor: hint
    rows: Callable[[Tensor], Tensor] | None = None


def part(t: Tensor, box: Box) -> Tensor:
    """A box of the last axes of a tensor, a view where it lies within.

    What lies outside is mirrored at the border, or, where the part within is too small for that, repeats the edge.
    """
    for axis, (o, n) in enumerate(zip(box.offset, box.size), start=t.ndim - len(box.size)):
        low, high = max(o, 0), min(o + n, t.shape[axis])
        if (low, high) == (o, o + n):
            t = t.narrow(axis, o, n)
            continue
        at = torch.arange(o, o + n, device=t.device)
        if max(low - o, o + n - high) < high - low:
            at = torch.where(at < low, 2 * low - at, torch.where(at >= high, 2 * (high - 1) - at, at))
        t = t.index_select(axis, at.clamp(low, high - 1))
    return t


def crop(box: Box) -> View:
    """A box of the latent; hints are cut to the same part of the image."""
    return View(partial(part, box=box), lambda hint, factor: part(hint, box.plane.scaled(factor)))


def roll(down: int, right: int) -> View:
    """The latent rolled along its last two axes, hints by the same part of the image."""

    def rolled(t: Tensor, factor: int = 1) -> Tensor:
        return torch.roll(t, (factor * down, factor * right), (-2, -1))

    return View(rolled, rolled)


def stride(q: int, row: int, column: int, padding: tuple[int, int]) -> View:
    """Every q-th position along the last two axes, after zeros at the top and the left.

    Such a view shows the whole image at a smaller size, and so hints are resized to it.

    Args:
        q: From one position to the next.
        row: The first row, 0 … q − 1.
        column: The first column, 0 … q − 1.
        padding: Zeros (at the top, at the left).
    """

    def strided(t: Tensor) -> Tensor:
        t = F.pad(t, (padding[1], 0, padding[0], 0)) if any(padding) else t
        return t[..., row::q, column::q]

    def resized(hint: Tensor, factor: int) -> Tensor:
        size = [n // factor + pad for n, pad in zip(hint.shape[-2:], padding)]
        shown = [len(range(first, n, q)) for n, first in zip(size, (row, column))]
        return F.interpolate(hint, [factor * n for n in shown], mode="area")

    return View(strided, resized)


def positions(chosen: Sequence[int], axis: int) -> View:
    """Positions of one axis of the latent, in this order.

    Args:
        chosen: The positions.
        axis: Counted from the end: -1 for the columns, -2 for the rows, -3 for the frames, which hints do not have.
    """

    def of_hint(hint: Tensor, factor: int) -> Tensor:
        if axis < -2:
            return hint
        return along(hint, [factor * position + k for position in chosen for k in range(factor)], axis)

    return View(lambda t: along(t, chosen, axis), of_hint)


def samples(chosen: Sequence[int]) -> View:
    """Samples of the batch, in this order; a tensor with one row for all samples stays as it is."""

    def of_rows(t: Tensor) -> Tensor:
        return t if len(t) == 1 else along(filled(t, max(chosen) + 1, axis=0), chosen, 0)

    return View(rows=of_rows)


def along(t: Tensor, chosen: Sequence[int], axis: int) -> Tensor:
    """Positions along an axis of a tensor."""
    return t.index_select(axis, index_on(t, chosen))


def index_on(like: Tensor, chosen: Sequence[int]) -> Tensor:
    """Positions as an index on the device of a tensor."""
    return torch.tensor(chosen).to(like.device, non_blocking=True)
