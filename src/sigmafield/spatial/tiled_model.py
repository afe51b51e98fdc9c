"""Networks that see a large latent tile by tile: wrappers of a `Model`, blended as predictions of the clean latent.

Guidance, masks and areas are outside: an area is cropped first, and the crop has tiles of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond, cropped, part
from sigmafield.core.geometry import Tile, Tiles, Window, batches, check, grid_tiles, places, shares, uniform
from sigmafield.core.process import per_sample
from sigmafield.core.protocols import Ctx, Model
from sigmafield.noise.sources import generator_of

Cover = Callable[[int, int], Tiles]
"""(height, width) of a latent, or of an area's crop of it → tiles that cover it."""


def grid_cover(tile: tuple[int, int], overlap: int = 0) -> Cover:
    """Equal tiles of (height, width) places: see `grid_tiles`."""
    grid_tiles(*tile, tile, overlap)  # to refuse here what it refuses

    @lru_cache(maxsize=16)
    def cover(height: int, width: int) -> Tiles:
        return grid_tiles(height, width, tile, overlap)

    return cover


def fixed_cover(tiles: Sequence[Tile], height: int, width: int) -> Cover:
    """These tiles of a latent of that size, such as a quadtree's. Raises ValueError unless they make it up.

    The cover refuses other sizes: a conditioning with an area needs `grid_cover`.
    """
    check(tiles, height, width)
    given = tuple(tiles)

    def cover(*size: int) -> Tiles:
        if size != (height, width):
            raise ValueError(
                f"these tiles are of {height} by {width} places, and a part of {size[0]} by {size[1]} is asked for: "
                "for conditionings with areas, take grid_cover"
            )
        return given

    return cover


Change = Callable[[Tile, Latent, Latent, Sigma, Ctx], Latent]
"""(tile, what the network was shown of it, its prediction, σ, ctx) → the prediction to blend; see `approximate`."""


def unchanged(tile: Tile, x: Latent, D: Latent, sigma: Sigma, ctx: Ctx) -> Latent:
    """The prediction as it is."""
    return D


@dataclass(frozen=True)
class Tiled:
    """A network that is shown tiles: D = Σ w_t D_t/Σ w_t, t over the tiles whose core is wanted.

    window = uniform: MultiDiffusion, arXiv:2302.08113; mixture_gaussian: Mixture of Diffusers, arXiv:2302.02412.
    batch: tiles of equal size that share a network call, at most. Where σ varies within samples, tiles go one by one.
    change: what becomes of each prediction before it is blended; known: predictions [B or 1, C, …] of tiles that the
    network is not asked about.
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
            at, inside = places(tile, height, width)
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
    """(height, width) of a latent; ValueError for one that has no such axes."""
    if x.ndim < 4:
        raise ValueError(f"tiles need latents [B, C, (frames,) height, width]; got shape {tuple(x.shape)}")
    return x.shape[-2], x.shape[-1]


ROWS = "tile_rows"
"""Name in `Ctx.aux` of the number of rows, tiles times prompts times samples, that networks were shown so far."""


@dataclass(frozen=True)
class Counted:
    """A network whose rows are counted in `ctx.aux`, so that a checkpoint knows of them."""

    model: Model

    def __call__(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Tensor]:
        ctx.aux[ROWS] = ctx.aux.get(ROWS, 0) + len(x)
        return self.model(x, sigma, conds, ctx)


def together(sigma: Sigma) -> bool:
    """Whether all tiles see the same noise levels."""
    return not sigma.ndim or per_sample(sigma) is not None


def wanted(tiles: Tiles, ctx: Ctx) -> Tiles:
    """The tiles in whose core a prediction will be used."""
    want = ctx.want
    return tiles if want is None else tuple(t for t in tiles if want[(..., *t.core.index)].any())


def box_of(tile: Tile, space: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(offset, size) of a tile along each axis of a latent, all frames of a video."""
    box = tile.box
    return (*(0 for _ in space[:-2]), box.y, box.x), (*space[:-2], box.height, box.width)


def ask(
    model: Model, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx, tiles: Sequence[Tile]
) -> list[tuple[Tile, tuple[Tensor, ...], list[Tensor]]]:
    """(tile, what is shown of it, the predictions), one for each conditioning; by one call, rows tile by tile."""
    boxes = [box_of(tile, x.shape[2:]) for tile in tiles]
    shown = [part(x, *box) for box in boxes]
    own = [cropped(cond, size, offset) for offset, size in boxes for cond in conds]
    at = part(sigma, *boxes[0]) if sigma.ndim else sigma
    inner = replace(ctx, want=None, part=(*ctx.part, tuple(boxes)))
    k, answers = len(conds), Counted(model)(torch.cat(shown), at, own, inner)
    return [(tile, shown[j].chunk(k), answers[j * k : (j + 1) * k]) for j, tile in enumerate(tiles)]


@dataclass(frozen=True)
class Spot:
    """SpotDiffusion: disjoint tiles whose grid is shifted at each step, so that seams fall elsewhere. arXiv:2407.15507.

    The latent is rolled, shown tile by tile, later tiles over earlier ones, and the prediction rolled back.
    sigmas: [n + 1], the whole schedule, of which a step is the level nearest to σ; shifts: one (down, right) a step,
    see `spot_shifts`. At a step that both axes are shifted, one of them is, in turns, as in ComfyUI's node pack.
    Raises ValueError unless there is a shift for each step.
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
        shift = self.shift(sigma, height, width)
        want = None if ctx.want is None else torch.roll(ctx.want, shift, (-2, -1))
        rolled, own = torch.roll(x, shift, (-2, -1)), [turned(cond, shift) for cond in conds]
        ctx = replace(ctx, want=want, part=(*ctx.part, shift))
        tiles = wanted(grid_tiles(height, width, self.tile, self.overlap), ctx)
        out = [x.new_zeros(len(x) // len(conds), *x.shape[1:]) for _ in conds]
        for group in batches(tiles, self.batch):
            for tile, _, answers in ask(self.model, rolled, sigma, own, ctx, group):
                for total, D in zip(out, answers):
                    total[(..., *tile.box.index)] = D
        return [torch.roll(total, (-shift[0], -shift[1]), (-2, -1)) for total in out]

    def shift(self, sigma: Sigma, height: int, width: int) -> tuple[int, int]:
        """(down, right) at a noise level; an axis that one tile spans is not shifted."""
        i = min(int((self.sigmas.double() - sigma).abs().argmin()), len(self.shifts) - 1)
        down = 0 if self.tile[0] >= height else self.shifts[i][0]
        right = 0 if self.tile[1] >= width else self.shifts[i][1]
        if down and right:
            rows = (i % 2 == 0) == (self.tile[0] > self.tile[1])
            return (down, 0) if rows else (0, right)
        return down, right


def turned(cond: Cond, shift: tuple[int, int]) -> Cond:
    """The conditioning of a rolled latent: what it has in every place is rolled along, hints in their resolution."""
    concat = None if cond.concat is None else torch.roll(cond.concat, shift, (-2, -1))
    controls = tuple(
        replace(c, hint=torch.roll(c.hint, (c.net.factor * shift[0], c.net.factor * shift[1]), (-2, -1)))
        for c in cond.controls
    )
    return replace(cond, concat=concat, controls=controls)


Order = Callable[[list[int]], list[int]]
"""Shifts as they were drawn → as they are used."""


def in_order(drawn: list[int]) -> list[int]:
    """As drawn: random."""
    return drawn


def fibonacci(drawn: list[int]) -> list[int]:
    """The ascending shifts at the steps 0, 1, 1, 2, 3, 5 … modulo n, each at the next free one where that is taken."""
    n, places = len(drawn), [0, 1]
    while places[-1] < n:
        places.append(places[-2] + places[-1])
    out: list[int | None] = [None] * n
    for k, value in enumerate(sorted(drawn)):
        at = places[k % len(places)] % n
        while out[at] is not None:
            at = (at + 1) % n
        out[at] = value
    return [value for value in out if value is not None]


ORDERS: dict[str, Order] = {"random": in_order, "sorted": sorted, "fibonacci": fibonacci}


def spot_shifts(n: int, tile: tuple[int, int], seed: int = 0, order: Order = in_order) -> list[tuple[int, int]]:
    """One (down, right) for each of n steps, below the tile's (height, width).

    Both are drawn with the same seed, so that for square tiles they are equal, as in ComfyUI's node pack.
    order: one of `ORDERS`, in_order, sorted or fibonacci.
    """
    drawn = [torch.randint(0, side, (n,), generator=generator_of(seed)).tolist() for side in tile]
    return list(zip(*(order(shifts) for shifts in drawn)))
