"""Approximations of a denoise strength per tile within one schedule, as in ComfyUI's node packs, for comparison.

`sigma_field.delayed` and `sigma_field.own_schedule` do it exactly. These go into `Tiled` as `change` and `known`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.geometry import Tile
from sigmafield.core.linear import lincomb
from sigmafield.core.protocols import Ctx
from sigmafield.core.views import part
from sigmafield.parameterization.prediction import Prediction
from sigmafield.spatial.tiled_model import Change

Strengths = Mapping[Tile, float]
"""Denoise strength of each tile, 0 … 1."""

Space = Callable[[Latent, Latent, float, Sigma], Latent]
"""(x, D, gain g, σ) → the weakened prediction."""


def in_x0(x: Latent, D: Latent, g: float, sigma: Sigma) -> Latent:
    """g D: the clean image shrinks towards 0, and the source is not kept any better."""
    return lincomb(g, D)


def in_step(x: Latent, D: Latent, g: float, sigma: Sigma) -> Latent:
    """x − g (x − D): an Euler step g times as long, which leaves noise that the next step does not expect."""
    return lincomb(1 - g, x, g, D)


def in_raw(prediction: Prediction) -> Space:
    """c_skip x + g (D − c_skip x): the network's own output, times g; as `in_step` for ε and flow."""

    def weakened(x: Latent, D: Latent, g: float, sigma: Sigma) -> Latent:
        return lincomb((1 - g) * prediction(sigma).c_skip, x, g, D)

    return weakened


def gain(d: float, progress: float, floor: float = 0.70, rise: float = 0.25, ramp: float = 1.0) -> float:
    """g = a + (1 − a) π^(1/(1 + ramp d)), a = floor + rise d, kept in [floor, 1]; 1 for d ≥ 1. π: share of the run."""
    if d >= 1:
        return 1.0
    start = floor + rise * d
    return min(max(start + (1 - start) * min(1.0, progress ** (1 / (1 + ramp * d))), floor), 1.0)


def progress(sigma: Sigma, ctx: Ctx) -> float:
    """i/n of the schedule's level nearest to σ. ValueError where the schedule is not known."""
    sigmas = ctx.span.sigmas
    if sigmas is None or sigma.ndim:
        raise ValueError("predictions by progress need a run with a schedule of one sigma per step")
    return int((sigmas - sigma).abs().argmin()) / ctx.span.n


def scaled(
    strengths: Strengths,
    space: Space = in_step,
    *,
    floor: float = 0.70,
    rise: float = 0.25,
    ramp: float = 1.0,
) -> Change:
    """Predictions weakened by `gain`, tile by tile.

    It suits samplers that neither add noise nor use earlier predictions; `recipes.tile_strength` checks that.

    Args:
        strengths: Denoise strength of each tile.
        space: What is weakened: `in_step`, `in_x0` or `in_raw(…)`.
        floor: Least gain, that of strength 0 at the start.
        rise: How much a strength of 1 adds to the gain at the start.
        ramp: How much faster the gain rises at a strength of 1.

    Raises:
        ValueError: All tiles have the same strength, or one lies outside [0, 1].
    """
    _check(strengths)

    def change(tile: Tile, x: Latent, D: Latent, sigma: Sigma, ctx: Ctx) -> Latent:
        g = gain(_of(strengths, tile), progress(sigma, ctx), floor, rise, ramp)
        return D if g == 1 else space(x, D, g, sigma)

    return change


def preserved(strengths: Strengths, source: Latent) -> Change:
    """D' = β D + (1 − β) s, β = d + (1 − d) π: the source shows through, less and less.

    Args:
        strengths: Denoise strength d of each tile.
        source: The source latent, s its tile.

    Raises:
        ValueError: All tiles have the same strength, or one lies outside [0, 1].
    """
    _check(strengths)

    def change(tile: Tile, x: Latent, D: Latent, sigma: Sigma, ctx: Ctx) -> Latent:
        d = _of(strengths, tile)
        beta = min(max(d + (1 - d) * progress(sigma, ctx), 0.0), 1.0)
        return lincomb(beta, D, 1 - beta, crop(source, tile))

    return change


def crop(source: Tensor, tile: Tile) -> Tensor:
    """The tile's box of a latent, mirrored beyond its border."""
    return part(source, tile.box)


def kept(tiles: Sequence[Tile], source: Tensor) -> dict[Tile, Tensor]:
    """For `Tiled(known=…)`: these tiles are not shown to the network, and their prediction is the source.

    A source of zeros, where there is no image, fades to grey.
    """
    return {tile: crop(source, tile) for tile in tiles}


def smaller(tiles: Sequence[Tile], below: int, factor: int = 8) -> list[Tile]:
    """The tiles whose core's shorter side is below this many pixels."""
    return [tile for tile in tiles if min(tile.core.height, tile.core.width) * factor < below]


def hybrid(
    tiles: Sequence[Tile], low: float = 0.2, high: float = 0.8, skip_above: float = 0.70, full_below: float = 1 / 16
) -> dict[Tile, float]:
    """Strengths by size, α = a core's share of the latent's area.

        d = 0 for α > skip_above,   1 for α ≤ full_below
        d = low + (high − low)(skip_above − α)/(skip_above − full_below) in between

    Args:
        tiles: Tiles that cover the latent.
        low: Least strength in between.
        high: Largest strength in between.
        skip_above: Share of the latent above which a tile is left out: of a quadtree, one that is not split.
        full_below: Share of the latent up to which a tile has strength 1.

    Raises:
        ValueError: Not 0 ≤ low < high ≤ 1, or not 0 ≤ full_below < skip_above.
    """
    if not (0 <= low < high <= 1 and 0 <= full_below < skip_above):
        raise ValueError(
            "hybrid needs 0 ≤ low < high ≤ 1 and 0 ≤ full_below < skip_above; "
            f"got {low}, {high}, {full_below} and {skip_above}"
        )
    area = {tile: tile.core.height * tile.core.width for tile in tiles}
    out = {}
    for tile in tiles:
        alpha = area[tile] / sum(area.values())
        middle = low + (high - low) * (skip_above - alpha) / (skip_above - full_below)
        out[tile] = 0.0 if alpha > skip_above else 1.0 if alpha <= full_below else middle
    return out


def _check(strengths: Strengths) -> None:
    values = list(strengths.values())
    if not all(0 <= d <= 1 for d in values):
        raise ValueError(f"denoise strengths must lie in [0, 1]; got {min(values):g} … {max(values):g}")
    if len(set(values)) < 2:
        raise ValueError(f"all tiles have the strength {values[0]:g}: give the run's denoise, or strengths that differ")


def _of(strengths: Strengths, tile: Tile) -> float:
    if tile not in strengths:
        raise ValueError(f"no strength is given for the tile {tuple(tile.box)}; conditionings with areas have others")
    return strengths[tile]
