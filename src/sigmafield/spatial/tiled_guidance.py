"""Guidance tile by tile: each tile has a guider of its own, and what they answer is blended.

`Tiled` is under guidance, which sees whole latents. Where guidance looks at means and deviations, as RescaleCFG and APG
do, each part of a large image is then guided by what is elsewhere in it; here a tile is guided as a run on the tile
alone would be. With guidance that is place by place, such as plain CFG, the two are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Area, Cond, absolute, cropped, part
from sigmafield.core.geometry import Tile, Window, places, shares, uniform
from sigmafield.core.predict import Placed, place, weight
from sigmafield.core.protocols import Ctx, Denoiser, Pred
from sigmafield.spatial.tiled_model import ROWS, Cover, box_of, plane, wanted

Guides = Callable[[Tile, Sequence[int]], Denoiser]
"""(tile, axes of the latent) → the guider of that tile's crop, such as a `Guider` with conditionings `seen_in` it."""


@dataclass(frozen=True)
class PerTile:
    """A denoiser of a large latent from one for each tile: D = Σ w_t D_t/Σ w_t, after guidance.

    guides: tile → its guider, whose scale may be the tile's own; cover, window: as of `Tiled`. Tiles go one by one, for
    guidance may look at a whole batch. What the mods of a tile remember is kept for each tile.
    """

    guides: Guides
    cover: Cover
    window: Window = uniform

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        height, width = plane(x)
        tiles, sums = self.cover(height, width), [torch.zeros_like(x) for _ in range(3)]
        asked = wanted(tiles, ctx)
        given = [True] * 3
        for tile, share in zip(asked, shares(asked, self.window, height, width)):
            pred = self.ask(tiles.index(tile), tile, x, sigma, ctx)
            at, inside = places(tile, height, width)
            w = share.to(x.device, x.dtype, non_blocking=True)
            given = [had and D is not None for had, D in zip(given, pred)]
            for total, D in zip(sums, pred):
                if D is not None:
                    total[at].addcmul_(D[inside].to(total), w)
        x0, cond, uncond = (total if had else None for total, had in zip(sums, given))
        assert x0 is not None
        return Pred(x0, cond, uncond)

    def ask(self, k: int, tile: Tile, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        """The prediction of tile number k, with the memory of that tile."""
        offset, size = box_of(tile, x.shape[2:])
        mine = f"tile{k}."
        aux = {name.removeprefix(mine): value for name, value in ctx.aux.items() if name.startswith(mine)}
        at = part(sigma, offset, size) if sigma.ndim else sigma
        guider, shown = self.guides(tile, tuple(x.shape[2:])), part(x, offset, size)
        inner = replace(ctx, aux=aux, want=None, notes={}, part=(*ctx.part, ((offset, size),)))
        pred = guider(shown, at, inner)
        ctx.aux.update({f"{mine}{name}": value for name, value in aux.items() if name != ROWS})
        ctx.aux[ROWS] = ctx.aux.get(ROWS, 0) + aux.get(ROWS, 0)
        return pred


def seen_in(tile: Tile, conds: Sequence[Cond], space: Sequence[int]) -> list[Cond]:
    """Conditionings that fit the latent (`fit`) as a tile of it has them: those that reach it, all cut along.

    An area keeps its weights, with the feathered border that it has in the whole latent.
    """
    offset, size = box_of(tile, space)
    return [inner for cond in conds if (inner := _inner(cond, offset, size, space)) is not None]


def _inner(cond: Cond, offset: Sequence[int], size: Sequence[int], space: Sequence[int]) -> Cond | None:
    [[whole]] = place([[cond]], space)
    low = [max(o, p) for o, p in zip(offset, whole.offset)]
    high = [min(o + n, p + m) for o, n, p, m in zip(offset, size, whole.offset, whole.size)]
    if any(a >= b for a, b in zip(low, high)):
        return None
    mask = cond.mask
    if absolute(cond, space) is not None:
        if mask is None:
            mask = _feathered(whole, space)
        area = Area(tuple(b - a for a, b in zip(low, high)), tuple(a - o for a, o in zip(low, offset)))
        cond = replace(cond, area=area)
    return replace(cropped(cond, size, offset), mask=None if mask is None else part(mask, offset, size))


def _feathered(whole: Placed, space: Sequence[int]) -> torch.Tensor:
    """The weights of an area as a mask of the whole latent, [1, *space]."""
    unit = replace(whole, cond=replace(whole.cond, strength=1.0))
    mask = torch.zeros(1, *space)
    mask[whole.crop] = weight(unit, 1, space)[0]
    return mask
