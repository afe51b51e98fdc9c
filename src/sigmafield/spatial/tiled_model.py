"""Networks that are shown a large latent tile by tile: wrappers of a `Model` that blend clean predictions.

Guidance, masks and areas are outside: an area is cropped first, and the crop has tiles of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond
from sigmafield.core.fitting import transformed
from sigmafield.core.geometry import Tile, Tiles, Window, batches, check, grid_tiles, shares, uniform
from sigmafield.core.memory import Memory, Slot
from sigmafield.core.process import per_sample
from sigmafield.core.protocols import Ctx, Model
from sigmafield.core.views import crop, part, roll
from sigmafield.noise.sources import generator_of

Cover = Callable[[int, int], Tiles]
"""(height, width) of a latent, or of an area's crop of it → tiles that cover it."""


def grid_cover(tile: tuple[int, int], overlap: int = 0) -> Cover:
    """Equal tiles of a latent of any size: see `grid_tiles`.

    Args:
        tile: (height, width) of a tile in latent positions.
        overlap: Of neighbours, in latent positions, at least.
    """
    grid_tiles(*tile, tile, overlap)  # to refuse here what it refuses

    @lru_cache(maxsize=16)
    def cover(height: int, width: int) -> Tiles:
        return grid_tiles(height, width, tile, overlap)

    return cover


def fixed_cover(tiles: Sequence[Tile], height: int, width: int) -> Cover:
    """These tiles, such as a quadtree's, of a latent of this size.

    The cover refuses other sizes: a conditioning with an area needs `grid_cover`.

    Args:
        tiles: Tiles whose cores make up the latent.
        height: Rows of the latent.
        width: Columns of the latent.

    Raises:
        ValueError: The cores do not make up the latent.
    """
    check(tiles, height, width)
    given = tuple(tiles)

    def cover(*size: int) -> Tiles:
        if size != (height, width):
            raise ValueError(
                f"these tiles cover {height} by {width} positions; got a latent of {size[0]} by {size[1]}: "
                "for conditionings with areas, take grid_cover"
            )
        return given

    return cover


Change = Callable[[Tile, Latent, Latent, Sigma, Ctx], Latent]
"""(tile, what the network was shown of it, its prediction, σ, ctx) → the prediction to blend; see `tile_strength`."""


def unchanged(tile: Tile, x: Latent, D: Latent, sigma: Sigma, ctx: Ctx) -> Latent:
    """The prediction as it is."""
    return D


@dataclass(frozen=True)
class Tiled:
    """A network that is shown tiles; their predictions are blended.

        D = Σ w_t D_t/Σ w_t      over the tiles t whose core is wanted

    With `uniform` weights MultiDiffusion, arXiv:2302.08113; with `mixture_gaussian` Mixture of Diffusers,
    arXiv:2302.02412. Where σ varies within samples, each tile is a call of its own.

    Args:
        model: The network.
        cover: Tiles of a latent.
        window: Weights within a tile.
        batch: Tiles of equal size that share a network call, at most.
        change: What becomes of each prediction before it is blended.
        known: Predictions [B or 1, C, …] of tiles that the network is not asked about.

    Raises:
        ValueError: batch is below 1.
    """

    model: Model
    cover: Cover
    window: Window = uniform
    batch: int = 4
    change: Change = unchanged
    known: Mapping[Tile, Latent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be ≥ 1 tile; got {self.batch}")

    def __call__(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Tensor]:
        tiles = wanted(self.cover(*plane(x)), ctx)
        height, width = plane(x)
        weight = dict(zip(tiles, shares(tiles, self.window, height, width)))
        out = [x.new_zeros(len(x) // len(conds), *x.shape[1:]) for _ in conds]

        def blend(tile: Tile, answers: Sequence[Latent]) -> None:
            w = weight[tile].to(x.device, x.dtype, non_blocking=True)
            at, inside = tile.indices(height, width)
            for total, D in zip(out, answers):
                total[at].addcmul_(D[inside].to(total), w)

        for tile in (t for t in tiles if t in self.known):
            blend(tile, [self.known[tile]] * len(conds))
        asked = [t for t in tiles if t not in self.known]
        for group in batches(asked, self.batch if together(sigma) else 1):
            for tile, shown, answers in ask(self.model, x, sigma, conds, ctx, group):
                blend(tile, [self.change(tile, one, D, sigma, ctx) for one, D in zip(shown, answers)])
        return out


def plane(x: Tensor) -> tuple[int, int]:
    """(height, width) of a latent; ValueError for one without these axes."""
    if x.ndim < 4:
        raise ValueError(f"tiles need latents [B, C, (frames,) height, width]; got shape {tuple(x.shape)}")
    return x.shape[-2], x.shape[-1]


@dataclass(frozen=True)
class Rows:
    """Rows, tiles times prompts times samples, that networks have been shown in a run."""

    count: int = 0


ROWS = Slot("tiles.rows", Rows)
"""Where `Counted` counts in a run's memory."""


def rows_shown(memory: Memory) -> int:
    """Rows that `Counted` networks have been shown, by the memory of a state or a step."""
    return (ROWS.read(memory) or Rows()).count


@dataclass(frozen=True)
class Counted:
    """A network whose rows are counted in the run's memory, so that a checkpoint has the count."""

    model: Model

    def __call__(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Tensor]:
        ROWS.write(ctx.aux, Rows(rows_shown(ctx.aux) + len(x)))
        return self.model(x, sigma, conds, ctx)


def together(sigma: Sigma) -> bool:
    """Whether all tiles see the same noise levels."""
    return not sigma.ndim or per_sample(sigma) is not None


def wanted(tiles: Tiles, ctx: Ctx) -> Tiles:
    """The tiles in whose core a prediction will be used."""
    want = ctx.want
    return tiles if want is None else tuple(t for t in tiles if want[(..., *t.core.index)].any())


def ask(
    model: Model, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx, tiles: Sequence[Tile]
) -> list[tuple[Tile, tuple[Tensor, ...], list[Tensor]]]:
    """One network call for some tiles of equal size, rows tile by tile.

    Returns:
        (tile, what is shown of it for each conditioning, the prediction for each) of each tile.
    """
    boxes = [tile.box.spanning(x.shape[2:]) for tile in tiles]
    shown = [part(x, box) for box in boxes]
    own = [transformed(cond, view) for view in map(crop, boxes) for cond in conds]
    at = part(sigma, boxes[0]) if sigma.ndim else sigma
    inner = replace(ctx, want=None, part=(*ctx.part, tuple(boxes)))
    k, answers = len(conds), Counted(model)(torch.cat(shown), at, own, inner)
    return [(tile, shown[j].chunk(k), answers[j * k : (j + 1) * k]) for j, tile in enumerate(tiles)]


@dataclass(frozen=True)
class Spot:
    """SpotDiffusion: disjoint tiles whose grid is shifted at each step, so that seams fall elsewhere. arXiv:2407.15507.

    The latent is rolled, shown tile by tile, later tiles over earlier ones, and the prediction is rolled back. At a
    step for which both axes have a shift, one of them is shifted, alternately, as in ComfyUI's node pack.

    Args:
        model: The network.
        tile: (height, width) of a tile in latent positions.
        sigmas: The whole schedule [n + 1]; a step is that of the level nearest to σ.
        shifts: (down, right) for each step, see `spot_shifts`.
        overlap: Of neighbours, in latent positions.
        batch: Tiles that share a network call, at most.

    Raises:
        ValueError: The number of shifts is not that of the steps.
    """

    model: Model
    tile: tuple[int, int]
    sigmas: Tensor
    shifts: Sequence[tuple[int, int]]
    overlap: int = 0
    batch: int = 4

    def __post_init__(self) -> None:
        if len(self.shifts) != len(self.sigmas) - 1:
            raise ValueError(f"{len(self.sigmas) - 1} steps need as many shifts; got {len(self.shifts)}")

    def __call__(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Tensor]:
        if sigma.ndim:
            raise ValueError(f"SpotDiffusion needs one sigma per step; got a field of shape {tuple(sigma.shape)}")
        height, width = plane(x)
        down, right = self.shift(sigma, height, width)
        there, back = roll(down, right), roll(-down, -right)
        want = None if ctx.want is None else there.latent(ctx.want)
        rolled, own = there.latent(x), [transformed(cond, there) for cond in conds]
        ctx = replace(ctx, want=want, part=(*ctx.part, (down, right)))
        tiles = wanted(grid_tiles(height, width, self.tile, self.overlap), ctx)
        out = [x.new_zeros(len(x) // len(conds), *x.shape[1:]) for _ in conds]
        for group in batches(tiles, self.batch):
            for tile, _, answers in ask(self.model, rolled, sigma, own, ctx, group):
                for total, D in zip(out, answers):
                    total[(..., *tile.box.index)] = D
        return [back.latent(total) for total in out]

    def shift(self, sigma: Sigma, height: int, width: int) -> tuple[int, int]:
        """(down, right) at a noise level; an axis that one tile spans is not shifted."""
        i = min(int((self.sigmas.double() - sigma).abs().argmin()), len(self.shifts) - 1)
        down = 0 if self.tile[0] >= height else self.shifts[i][0]
        right = 0 if self.tile[1] >= width else self.shifts[i][1]
        if down and right:
            rows = (i % 2 == 0) == (self.tile[0] > self.tile[1])
            return (down, 0) if rows else (0, right)
        return down, right


Order = Callable[[list[int]], list[int]]
"""Shifts as they were drawn → as they are used."""


def in_order(drawn: list[int]) -> list[int]:
    """As drawn: random."""
    return drawn


def fibonacci(drawn: list[int]) -> list[int]:
    """The ascending shifts at the steps 0, 1, 1, 2, 3, 5 … modulo n, each at the next free step."""
    n, steps = len(drawn), [0, 1]
    while steps[-1] < n:
        steps.append(steps[-2] + steps[-1])
    out: list[int | None] = [None] * n
    for k, value in enumerate(sorted(drawn)):
        at = steps[k % len(steps)] % n
        while out[at] is not None:
            at = (at + 1) % n
        out[at] = value
    return [value for value in out if value is not None]


ORDERS: dict[str, Order] = {"random": in_order, "sorted": sorted, "fibonacci": fibonacci}


def spot_shifts(n: int, tile: tuple[int, int], seed: int = 0, order: Order = in_order) -> list[tuple[int, int]]:
    """(down, right) for each of n steps, below the tile's (height, width).

    Both are drawn with the same seed, so that they are equal for square tiles, as in ComfyUI's node pack.

    Args:
        n: Steps.
        tile: (height, width) of a tile in latent positions.
        seed: Of the draws.
        order: One of `ORDERS`: in_order, sorted or fibonacci.
    """
    drawn = [torch.randint(0, side, (n,), generator=generator_of(seed)).tolist() for side in tile]
    return list(zip(*(order(shifts) for shifts in drawn)))
