"""Tiles: boxes that cover a latent, the places that each owns, and how much it counts where tiles overlap.

Geometry only. Boxes lie in the last two axes, (height, width): a tile of a video has all of its frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from types import EllipsisType
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Index = tuple[slice | EllipsisType, ...]


class Box(NamedTuple):
    """A rectangle: its first row and column, and its size, in places."""

    y: int
    x: int
    height: int
    width: int

    def clipped(self, height: int, width: int) -> Box:
        """The part within a canvas; its size is 0 or less where there is none."""
        y, x = max(self.y, 0), max(self.x, 0)
        return Box(y, x, min(self.y + self.height, height) - y, min(self.x + self.width, width) - x)

    @property
    def index(self) -> tuple[slice, slice]:
        """Index of the box in the last two axes: `t[(..., *box.index)]`; the box lies within the canvas."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


@dataclass(frozen=True)
class Tile:
    """What a network is shown, and the part of it that the tile owns: the cores of all tiles make up the canvas.

    box: may reach beyond the canvas; what lies there is mirrored (see `guidance.cond.part`).
    """

    box: Box
    core: Box


Tiles = tuple[Tile, ...]


def positions(length: int, tile: int, overlap: int) -> list[int]:
    """First places of the tiles along an axis, spread evenly: ⌊i (L − t)/(n − 1)⌋, n = ⌈(L − o)/(t − o)⌉.

    The true overlaps are at least o and differ by at most 1. One tile where t ≥ L.
    """
    if tile >= length:
        return [0]
    n = -(-(length - overlap) // (tile - overlap))
    return [i * (length - tile) // (n - 1) for i in range(n)]


def grid_tiles(height: int, width: int, tile: tuple[int, int], overlap: int = 0) -> Tiles:
    """Equal tiles, row by row, that cover a canvas of height by width places.

    tile: (height, width) in places, at least 1, cut to the canvas; overlap: at least so many places, cut to 4 less than
    the tile's smaller side. A place belongs to the tile whose centre is nearest, of two to the first.
    Raises ValueError for a tile without places and a negative overlap.
    """
    if min(tile) < 1 or overlap < 0:
        raise ValueError(f"a tile must have places and the overlap be ≥ 0; got {tile} and {overlap}")
    h, w = min(tile[0], height), min(tile[1], width)
    overlap = max(0, min(overlap, min(h, w) - 4))
    rows, columns = positions(height, h, overlap), positions(width, w, overlap)
    ys, xs = _borders(rows, h, height), _borders(columns, w, width)
    return tuple(
        Tile(Box(y, x, h, w), Box(ys[i], xs[j], ys[i + 1] - ys[i], xs[j + 1] - xs[j]))
        for i, y in enumerate(rows)
        for j, x in enumerate(columns)
    )


def _borders(firsts: Sequence[int], tile: int, length: int) -> list[int]:
    """Where the places nearest to each tile's centre begin, and the end."""
    return [0, *((a + b + tile - 1) // 2 + 1 for a, b in pairwise(firsts)), length]


def leaf_tiles(leaves: Sequence[Box], height: int, width: int, factor: int = 8, overlap: int = 0) -> Tiles:
    """Tiles of a latent, height by width, from the leaves of a quadtree: each leaf grown on every side.

    factor: places of the leaves for one of the latent (8: leaves in pixels); overlap: places that a tile grows by, at
    most half of its core and a quarter of the canvas. A tile at the border reaches beyond it.
    Raises ValueError if the leaves do not make up the canvas.
    """
    tiles = []
    for leaf in leaves:
        core = Box(*(side // factor for side in leaf))
        grow = min(max(overlap, 0), min(height, width) // 4, core.height // 2, core.width // 2)
        box = Box(core.y - grow, core.x - grow, core.height + 2 * grow, core.width + 2 * grow)
        tiles.append(Tile(box, core))
    check(tiles, height, width)
    return tuple(tiles)


def check(tiles: Sequence[Tile], height: int, width: int) -> None:
    """Raise ValueError unless the tiles' cores make up a canvas, each place once."""
    counts = torch.zeros(height, width, dtype=torch.int32)
    for tile in tiles:
        if tile.core.clipped(height, width) != tile.core:
            raise ValueError(f"tile {tuple(tile.core)} does not lie in a canvas of {height} by {width} places")
        counts[tile.core.index] += 1
    if (counts != 1).any():
        y, x = (counts != 1).nonzero()[0].tolist()
        n = int(counts[y, x])
        raise ValueError(f"tiles must own each place of {height} by {width} once; row {y}, column {x} has {n} owners")


def places(tile: Tile, height: int, width: int) -> tuple[Index, Index]:
    """Index of a tile's part within the canvas: in the canvas, and in the tile."""
    box, inside = tile.box, tile.box.clipped(height, width)
    return (..., *inside.index), (..., *inside._replace(y=inside.y - box.y, x=inside.x - box.x).index)


def batches(tiles: Sequence[Tile], most: int) -> list[list[Tile]]:
    """Tiles that may share a network call: of equal size, in order, at most so many, batches of equal length."""
    sizes: dict[tuple[int, int], list[Tile]] = {}
    for tile in tiles:
        sizes.setdefault((tile.box.height, tile.box.width), []).append(tile)
    out = []
    for same in sizes.values():
        length = math.ceil(len(same) / math.ceil(len(same) / most))
        out += [same[k : k + length] for k in range(0, len(same), length)]
    return out


Window = Callable[[int, int], Float[Tensor, "height width"]]
"""Weights of a tile of (height, width) places, float64, in any unit."""


def uniform(height: int, width: int) -> Float[Tensor, "height width"]:
    """1 everywhere: overlaps are means. MultiDiffusion, arXiv:2302.08113."""
    return torch.ones(height, width, dtype=torch.float64)


def mixture_gaussian(height: int, width: int) -> Float[Tensor, "height width"]:
    """exp(−(d_x² + d_y²)/(2 · 0.01 · width²)) from the middle: Mixture of Diffusers, arXiv:2302.02412.

    As in ComfyUI's node pack the rows' middle is height/2, half a place below the true one, and both axes go by the
    width, so that a high tile has hardly any weight above and below: `gaussian` is without these.
    """
    v, u = (torch.arange(n, dtype=torch.float64) for n in (height, width))
    return _bell(v - height / 2, width, 0.01)[:, None] * _bell(u - (width - 1) / 2, width, 0.01)


def gaussian(height: int, width: int) -> Float[Tensor, "height width"]:
    """exp(−d_x²/(2 · 0.02 · width²) − d_y²/(2 · 0.02 · height²)) from the middle."""
    v, u = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (height, width))
    return _bell(v, height, 0.02)[:, None] * _bell(u, width, 0.02)


def _bell(distance: Tensor, length: int, variance: float) -> Tensor:
    return (-(distance**2) / (2 * variance * length**2)).exp() / math.sqrt(2 * math.pi * variance)


def cosine(height: int, width: int) -> Float[Tensor, "height width"]:
    """sin² over each axis: two tiles that overlap by half of their length add to a constant."""
    v, u = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (height, width))
    return (v * math.pi).sin()[:, None] ** 2 * (u * math.pi).sin() ** 2


WINDOWS: dict[str, Window] = {f.__name__: f for f in (uniform, mixture_gaussian, gaussian, cosine)}


@lru_cache(maxsize=64)
def shares(tiles: Tiles, window: Window, height: int, width: int) -> tuple[Float[Tensor, "h w"], ...]:
    """What each tile counts at its places within the canvas, float32: w_t/Σ w; exactly 1 where it is alone.

    Uniform weights where the sum is 0 or not finite, as it is for extreme shapes.
    """

    at = [places(tile, height, width) for tile in tiles]
    weights = [window(tile.box.height, tile.box.width)[inside] for tile, (_, inside) in zip(tiles, at)]
    sums, counts = torch.zeros(2, height, width, dtype=torch.float64)
    for w, (canvas, _) in zip(weights, at):
        sums[canvas] += w
        counts[canvas] += 1
    usable = sums.isfinite() & (sums > 1e-300)
    sums = torch.where(usable, sums, counts)
    weights = [torch.where(usable[canvas], w, 1.0) / sums[canvas] for w, (canvas, _) in zip(weights, at)]
    return tuple(torch.where(counts[canvas] == 1, 1.0, w).float() for w, (canvas, _) in zip(weights, at))


Combine = Callable[[Sequence[Tile], Sequence[float], int, int], Tensor]
"""(tiles, a value of each, height, width) → a map [1, 1, height, width], float64: what holds where tiles overlap."""


def painted(tiles: Sequence[Tile], values: Sequence[float], height: int, width: int) -> Float[Tensor, "1 1 h w"]:
    """A map of the canvas with each tile's value on its core, float64. ValueError unless there is one for each."""
    _paired(tiles, values)
    out = torch.zeros(1, 1, height, width, dtype=torch.float64)
    for tile, value in zip(tiles, values):
        out[(..., *tile.core.index)] = value
    return out


def largest(tiles: Sequence[Tile], values: Sequence[float], height: int, width: int) -> Float[Tensor, "1 1 h w"]:
    """As `painted`, with the largest value of all tiles that show a place."""
    _paired(tiles, values)
    out = torch.full((1, 1, height, width), -math.inf, dtype=torch.float64)
    for tile, value in zip(tiles, values):
        canvas, _ = places(tile, height, width)
        out[canvas] = out[canvas].clamp(min=value)
    return out


def least(tiles: Sequence[Tile], values: Sequence[float], height: int, width: int) -> Float[Tensor, "1 1 h w"]:
    """As `painted`, with the least value of all tiles that show a place."""
    return -largest(tiles, [-value for value in values], height, width)


def weighted(window: Window = gaussian) -> Combine:
    """As `painted`, with the mean Σ w_t v_t/Σ w_t of all tiles that show a place: their value where it is the same."""

    def mean(tiles: Sequence[Tile], values: Sequence[float], height: int, width: int) -> Tensor:
        _paired(tiles, values)
        out = torch.zeros(1, 1, height, width, dtype=torch.float64)
        for tile, value, w in zip(tiles, values, shares(tuple(tiles), window, height, width)):
            out[places(tile, height, width)[0]] += value * w.double()
        low, high = (f(tiles, values, height, width) for f in (least, largest))
        return torch.minimum(torch.maximum(out, low), high)

    return mean


def _paired(tiles: Sequence[Tile], values: Sequence[float]) -> None:
    if len(tiles) != len(values):
        raise ValueError(f"{len(tiles)} tiles need as many values; got {len(values)}")


COMBINES: dict[str, Combine] = {"owner": painted, "max": largest, "min": least, "weighted": weighted()}
"""How strengths of tiles that overlap become one map."""
