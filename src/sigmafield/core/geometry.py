"""Rectangles: boxes of a latent, tiles that cover it, and how much each tile counts where tiles overlap.

Tiles lie in the last two axes, (height, width): a tile of a video has all of its frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from types import EllipsisType

import torch
from jaxtyping import Float
from torch import Tensor

from sigmafield.core.typed import numbers

Index = tuple[slice | EllipsisType, ...]


class Box(tuple[int, ...]):
    """A box of a latent: its first position along each axis, then its size along each.

        Box(y, x, height, width)                     in the last two axes
        Box(frame, y, x, frames, height, width)      in the frames of a video as well

    It may reach beyond the latent.
    """

    __slots__ = ()

    def __new__(cls, *numbers: int) -> Box:
        return super().__new__(cls, numbers)

    def __getnewargs__(self) -> tuple[int, ...]:
        return tuple(self)

    def __repr__(self) -> str:
        return f"Box{tuple(self)}"

    @classmethod
    def at(cls, offset: Sequence[int], size: Sequence[int]) -> Box:
        """The box of this size that begins at these positions."""
        return cls(*offset, *size)

    @property
    def offset(self) -> tuple[int, ...]:
        """The first position along each axis."""
        return self[: len(self) // 2]

    @property
    def size(self) -> tuple[int, ...]:
        """The number of positions along each axis."""
        return self[len(self) // 2 :]

    @property
    def y(self) -> int:
        """The first row."""
        return self[len(self) // 2 - 2]

    @property
    def x(self) -> int:
        """The first column."""
        return self[len(self) // 2 - 1]

    @property
    def height(self) -> int:
        """The number of rows."""
        return self[-2]

    @property
    def width(self) -> int:
        """The number of columns."""
        return self[-1]

    @property
    def plane(self) -> Box:
        """The box in the last two axes."""
        return Box(*self.offset[-2:], *self.size[-2:])

    @property
    def index(self) -> tuple[slice, ...]:  # pyright: ignore[reportIncompatibleMethodOverride] - not tuple.index
        """Index of a box that lies within the last axes of a tensor: `t[(..., *box.index)]`."""
        return tuple(slice(o, o + n) for o, n in zip(self.offset, self.size))

    def spanning(self, space: Sequence[int]) -> Box:
        """The box in a latent of more axes, of which it has all positions of the first ones."""
        first = space[: len(space) - len(self.size)]
        return Box(*(0 for _ in first), *self.offset, *first, *self.size)

    def clipped(self, *space: int) -> Box:
        """The part within a latent of these sides; a size of 0 or less if the box is outside."""
        return self & Box.at([0] * len(space), space)

    def __and__(self, other: Box) -> Box:
        """The part that two boxes have in common; a size of 0 or less if they do not overlap."""
        low = [max(a, b) for a, b in zip(self.offset, other.offset)]
        ends = zip(self.offset, self.size, other.offset, other.size)
        return Box.at(low, [min(a + m, b + n) - o for (a, m, b, n), o in zip(ends, low)])

    def holds(self, other: Box) -> bool:
        """Whether another box lies within this one."""
        return self & other == other

    def moved(self, *by: int) -> Box:
        """The box this many positions further along each axis."""
        return Box.at([o + k for o, k in zip(self.offset, by)], self.size)

    def scaled(self, factor: int) -> Box:
        """The box in units that are `factor` times smaller."""
        return Box(*(factor * n for n in self))


@dataclass(frozen=True)
class Tile:
    """What a network is shown, and the part of it that the tile owns: the cores of all tiles make up the canvas.

    Args:
        box: What is shown; it may reach beyond the canvas, where the latent is mirrored (see `views.part`).
        core: The part that the tile owns.
    """

    box: Box
    core: Box

    def indices(self, height: int, width: int) -> tuple[Index, Index]:
        """Index of the part of the box within a canvas: (in the canvas, in the tile)."""
        inside = self.box.clipped(height, width)
        return (..., *inside.index), (..., *inside.moved(-self.box.y, -self.box.x).index)


Tiles = tuple[Tile, ...]


def positions(length: int, tile: int, overlap: int) -> list[int]:
    """First positions of the tiles along an axis, spread evenly: ⌊i (L − t)/(n − 1)⌋, n = ⌈(L − o)/(t − o)⌉.

    The true overlaps are at least o and differ by at most 1. There is one tile where t ≥ L.
    """
    if tile >= length:
        return [0]
    n = -(-(length - overlap) // (tile - overlap))
    return [i * (length - tile) // (n - 1) for i in range(n)]


def grid_tiles(height: int, width: int, tile: tuple[int, int], overlap: int = 0) -> Tiles:
    """Equal tiles, row by row, that cover a canvas.

    A position belongs to the tile whose centre is nearest, of two to the first.

    Args:
        height: Rows of the canvas.
        width: Columns of the canvas.
        tile: (height, width) of a tile, cut to the canvas.
        overlap: Of neighbours, at least; cut to 4 less than the tile's smaller side.

    Raises:
        ValueError: A side of the tile is below 1, or the overlap is negative.
    """
    if min(tile) < 1 or overlap < 0:
        raise ValueError(f"a tile's sides must be ≥ 1 and the overlap ≥ 0; got {tile} and {overlap}")
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
    """Where the positions nearest to each tile's centre begin, and the end."""
    return [0, *((a + b + tile - 1) // 2 + 1 for a, b in pairwise(firsts)), length]


def leaf_tiles(leaves: Sequence[Box], height: int, width: int, factor: int = 8, overlap: int = 0) -> Tiles:
    """Tiles of a latent from the leaves of a quadtree: each leaf grown on every side.

    A tile at the border reaches beyond the latent.

    Args:
        leaves: Leaves of a quadtree.
        height: Rows of the latent.
        width: Columns of the latent.
        factor: Units of the leaves for each latent position (8: leaves in pixels).
        overlap: Positions that a tile grows by, at most half of its core and a quarter of the latent.

    Raises:
        ValueError: The leaves do not make up the latent.
    """
    tiles: list[Tile] = []
    for leaf in leaves:
        core = Box(*(side // factor for side in leaf))
        grow = min(max(overlap, 0), min(height, width) // 4, core.height // 2, core.width // 2)
        box = Box(core.y - grow, core.x - grow, core.height + 2 * grow, core.width + 2 * grow)
        tiles.append(Tile(box, core))
    check(tiles, height, width)
    return tuple(tiles)


def check(tiles: Sequence[Tile], height: int, width: int) -> None:
    """Raises ValueError unless the tiles' cores make up a canvas, each position once."""
    counts = torch.zeros(height, width, dtype=torch.int32)
    for tile in tiles:
        if tile.core.clipped(height, width) != tile.core:
            raise ValueError(f"tile {tuple(tile.core)} does not lie in a canvas of {height} by {width} positions")
        counts[tile.core.index] += 1
    if (counts != 1).any():
        y, x = map(int, numbers((counts != 1).nonzero()[0]))
        n = int(counts[y, x])
        raise ValueError(
            f"tiles must own each position of {height} by {width} once; row {y}, column {x} has {n} owners"
        )


def batches(tiles: Sequence[Tile], most: int) -> list[list[Tile]]:
    """Tiles that may share a network call: of equal size, in order, at most this many, in batches of equal length."""
    sizes: dict[tuple[int, int], list[Tile]] = {}
    for tile in tiles:
        sizes.setdefault((tile.box.height, tile.box.width), []).append(tile)
    out: list[list[Tile]] = []
    for same in sizes.values():
        length = math.ceil(len(same) / math.ceil(len(same) / most))
        out += [same[k : k + length] for k in range(0, len(same), length)]
    return out


Window = Callable[[int, int], Float[Tensor, "height width"]]
"""Weights of a tile of (height, width) positions, float64, in any unit."""


def uniform(height: int, width: int) -> Float[Tensor, "height width"]:
    """1 everywhere: overlaps are means. MultiDiffusion, arXiv:2302.08113."""
    return torch.ones(height, width, dtype=torch.float64)


def mixture_gaussian(height: int, width: int) -> Float[Tensor, "height width"]:
    """exp(−(d_x² + d_y²)/(2 · 0.01 · width²)) from the middle: Mixture of Diffusers, arXiv:2302.02412.

    As in ComfyUI's node pack the rows' middle is height/2, half a position below the true one, and both axes go by the
    width, so that a tall tile has hardly any weight at its top and bottom. `gaussian` does not have these quirks.
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
    """What each tile counts at its positions within the canvas, float32: w_t/Σ w; exactly 1 where it is alone.

    Weights are uniform where the sum is 0 or not finite, as it is for extreme shapes.
    """
    at = [tile.indices(height, width) for tile in tiles]
    weights = [window(tile.box.height, tile.box.width)[inside] for tile, (_, inside) in zip(tiles, at)]
    sums, counts = torch.zeros(2, height, width, dtype=torch.float64)
    for w, (canvas, _) in zip(weights, at):
        sums[canvas] += w
        counts[canvas] += 1
    usable = sums.isfinite() & (sums > 1e-300)
    sums = torch.where(usable, sums, counts)
    weights = [torch.where(usable[canvas], w, 1.0) / sums[canvas] for w, (canvas, _) in zip(weights, at)]
    return tuple(torch.where(counts[canvas] == 1, 1.0, w).float() for w, (canvas, _) in zip(weights, at))
