"""Maps of a latent from a value for each tile, such as a denoise strength: what holds where tiles overlap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sigmafield.core.geometry import Tile, Window, gaussian, shares

Combine = Callable[[Sequence[Tile], Sequence[float], int, int], Tensor]
"""(tiles, a value for each, height, width) → a map [1, 1, height, width], float64."""


def painted(tiles: Sequence[Tile], values: Sequence[float], height: int, width: int) -> Float[Tensor, "1 1 h w"]:
    """Each tile's value on its core.

    Args:
        tiles: Tiles that cover the canvas.
        values: A value for each tile.
        height: Rows of the canvas.
        width: Columns of the canvas.

    Returns:
        A map [1, 1, height, width], float64.

    Raises:
        ValueError: There are more or fewer values than tiles.
    """
    _paired(tiles, values)
    out = torch.zeros(1, 1, height, width, dtype=torch.float64)
    for tile, value in zip(tiles, values):
        out[(..., *tile.core.index)] = value
    return out


def largest(tiles: Sequence[Tile], values: Sequence[float], height: int, width: int) -> Float[Tensor, "1 1 h w"]:
    """As `painted`, with the largest value of all tiles that show a position."""
    _paired(tiles, values)
    out = torch.full((1, 1, height, width), -math.inf, dtype=torch.float64)
    for tile, value in zip(tiles, values):
        canvas, _ = tile.indices(height, width)
        out[canvas] = out[canvas].clamp(min=value)
    return out


def least(tiles: Sequence[Tile], values: Sequence[float], height: int, width: int) -> Float[Tensor, "1 1 h w"]:
    """As `painted`, with the least value of all tiles that show a position."""
    return -largest(tiles, [-value for value in values], height, width)


def weighted(window: Window = gaussian) -> Combine:
    """As `painted`, with the mean Σ w_t v_t/Σ w_t of all tiles that show a position; exact where they agree.

    Args:
        window: Weights within a tile.
    """

    def mean(tiles: Sequence[Tile], values: Sequence[float], height: int, width: int) -> Tensor:
        _paired(tiles, values)
        out = torch.zeros(1, 1, height, width, dtype=torch.float64)
        for tile, value, w in zip(tiles, values, shares(tuple(tiles), window, height, width)):
            out[tile.indices(height, width)[0]] += value * w.double()
        low, high = (f(tiles, values, height, width) for f in (least, largest))
        return torch.minimum(torch.maximum(out, low), high)

    return mean


def _paired(tiles: Sequence[Tile], values: Sequence[float]) -> None:
    if len(tiles) != len(values):
        raise ValueError(f"{len(tiles)} tiles need as many values; got {len(values)}")


COMBINES: dict[str, Combine] = {"owner": painted, "max": largest, "min": least, "weighted": weighted()}
"""How strengths of tiles that overlap become one map."""
