"""Guidance tile by tile: each tile has a guider of its own, and their guided predictions are blended.

`Tiled` is under guidance, which sees whole latents. Where guidance looks at means and deviations, as RescaleCFG and APG
do, each part of a large image is then guided by the rest of it; here a tile is guided as in a run on the tile alone.
With guidance that acts position by position, such as plain CFG, the two are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond
from sigmafield.core.fitting import transformed
from sigmafield.core.geometry import Tile, Window, shares, uniform
from sigmafield.core.memory import Slot
from sigmafield.core.placement import box_of, place, weight
from sigmafield.core.protocols import Ctx, Denoiser, Pred
from sigmafield.core.recent import Recent
from sigmafield.core.views import crop, part
from sigmafield.spatial.tiled_model import ROWS, Cover, Rows, plane, rows_shown, wanted

Guides = Callable[[Tile, Sequence[int]], Denoiser]
"""(tile, axes of the latent) → the guider of that tile's crop, such as a `Guider` with conditionings `seen_in` it."""

TILES = Slot("tiles.guidance")
"""What the mods of each tile remember, by the tile's number."""


@dataclass(frozen=True)
class PerTile:
    """A denoiser of a large latent, made of one for each tile: blended after guidance.

        D = Σ w_t D_t/Σ w_t

    Each tile is a call of its own, since guidance may look at a whole batch. What the mods of a tile remember is kept
    for each tile.

    Args:
        guides: Tile → its guider, whose scale may be the tile's own; asked once for each tile of a size.
        cover: Tiles of a latent.
        window: Weights within a tile.
    """

    guides: Guides
    cover: Cover
    window: Window = uniform
    known: Recent[Denoiser] = field(default_factory=lambda: Recent(1024), init=False, repr=False, compare=False)

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        height, width = plane(x)
        tiles, sums = self.cover(height, width), [torch.zeros_like(x) for _ in range(3)]
        asked = wanted(tiles, ctx)
        given = [True] * 3
        for tile, share in zip(asked, shares(asked, self.window, height, width)):
            pred = self.ask(tiles.index(tile), tile, x, sigma, ctx)
            at, inside = tile.indices(height, width)
            w = share.to(x.device, x.dtype, non_blocking=True)
            given = [had and D is not None for had, D in zip(given, pred)]
            for total, D in zip(sums, pred):
                if D is not None:
                    total[at].addcmul_(D[inside].to(total), w)
        return Pred(sums[0], *(total if had else None for total, had in zip(sums[1:], given[1:])))

    def ask(self, k: int, tile: Tile, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        """The prediction of tile number k, with the memory of that tile."""
        space = tuple(x.shape[2:])
        box = tile.box.spanning(space)
        guider = self.known((), (tile, space), lambda: self.guides(tile, space))
        memory = TILES.scope(ctx.aux, k)
        inner = replace(ctx, aux=memory, want=None, notes={}, part=(*ctx.part, (box,)))
        pred = guider(part(x, box), part(sigma, box) if sigma.ndim else sigma, inner)
        if rows := rows_shown(memory):
            ROWS.clear(memory)
            ROWS.write(ctx.aux, Rows(rows_shown(ctx.aux) + rows))
        if memory:
            TILES.keep(ctx.aux, k, memory)
        return pred


def seen_in(tile: Tile, conds: Sequence[Cond], space: Sequence[int]) -> list[Cond]:
    """The conditionings of a tile: those that reach it, with everything of the latent's size cut to it.

    An area keeps its weights, with the border that it has in the whole latent.

    Args:
        tile: A tile.
        conds: Conditionings that fit the latent (`fit`).
        space: Sides of the latent.
    """
    return [inner for cond in conds if (inner := _inner(cond, tile, space)) is not None]


def _inner(cond: Cond, tile: Tile, space: Sequence[int]) -> Cond | None:
    [[placed]] = place([[cond]], space)
    whole, shown = box_of(placed, space), tile.box.spanning(space)
    common = whole & shown
    if min(common.size) < 1:
        return None
    if placed.area is not None:
        mask = _bordered(placed, space) if placed.mask is None else placed.mask
        placed = replace(placed, mask=mask, area=common.moved(*(-o for o in shown.offset)))
    return transformed(placed, crop(shown))


def _bordered(cond: Cond, space: Sequence[int]) -> torch.Tensor:
    """The weights of an area as a mask of the whole latent, [1, *space]."""
    mask = torch.zeros(1, *space)
    mask[(..., *box_of(cond, space).index)] = weight(replace(cond, strength=1.0), 1, space)[0]
    return mask
