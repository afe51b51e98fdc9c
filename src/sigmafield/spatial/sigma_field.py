"""σ-fields: schedules in which each position has its own noise levels, from masks and tiles of denoise strengths.

A strength d in [0, 1] becomes levels in one of two ways: `delayed` start on one schedule, or an `own_schedule`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sigmafield.core.geometry import Tile
from sigmafield.core.resize import resize_mask
from sigmafield.core.tile_maps import Combine, painted
from sigmafield.parameterization.timesteps import Levels

Strength = Float[Tensor, "batch 1 *space"]
"""Denoise strength of each position, float64 on the CPU, 0 = keep … 1 = all new; [B or 1, 1, *space]."""

Trajectory = Callable[[Tensor], Tensor]
"""Strengths [...] → their levels [n + 1, ...]."""

Join = Callable[[Tensor], Tensor]
"""Strengths → the step at which a position begins to change, int64, 0 … n; n: never."""


def by_steps(n: int) -> Join:
    """k = n − min(n, ⌊n d⌋): a share d of the steps is run, as with diffusers' image-to-image strength."""
    return lambda d: n - (n * d.double() + 1e-9).floor().long().clamp(0, n)


def by_sigma(sigmas: Tensor, starts: Callable[[float], Tensor]) -> Join:
    """The first k with σ_k ≤ the first level of KSampler's schedule for denoise d: `starts(d)` is that schedule."""

    def first(d: float) -> int:
        own = starts(d)
        return int((sigmas.double() > float(own[0]) * (1 + 1e-6)).sum()) if len(own) else len(sigmas) - 1

    def join(d: Tensor) -> Tensor:
        values, index = d.double().unique(return_inverse=True)
        return torch.tensor([first(float(v)) for v in values])[index]

    return join


def by_timestep(levels: Levels, sigmas: Tensor, strict: bool = False) -> Join:
    """The first k with (t(σ_k) − t_end)/(t(σ₀) − t_end) ≤ d, t_end = t(max(σ_min, σ_n)): as differential diffusion.

    arXiv:2306.00950.

    Args:
        levels: The network's noise levels.
        sigmas: The schedule [n + 1].
        strict: Whether a position with d = 0 joins at a level that is just σ_min, as in ComfyUI; else it never joins.
    """
    t = levels.timestep(torch.cat([sigmas[:-1], sigmas[-1:].clamp(min=levels.sigma_min)]).double())
    theta = (t[:-1] - t[-1]) / (t[0] - t[-1])

    def join(d: Tensor) -> Tensor:
        k = (theta.reshape(-1, *[1] * d.ndim) > d).sum(0)
        return k if strict else torch.where(d <= 0, len(theta), k)

    return join


def delayed(sigmas: Float[Tensor, " levels"], join: Join | None = None) -> Trajectory:
    """One schedule for all: a position with strength d is held at σ_k(d) until step k, then goes with the others.

    Positions that wait cost no evaluation (see `Served`).

    Args:
        sigmas: The schedule [n + 1], of any precision.
        join: d → k; by default `by_steps`.
    """
    sigmas = torch.as_tensor(sigmas).double()
    join = join or by_steps(len(sigmas) - 1)

    def levels(d: Tensor) -> Tensor:
        steps = torch.arange(len(sigmas)).reshape(-1, *[1] * d.ndim)
        return sigmas[torch.maximum(steps, join(d))]

    return levels


def own_schedule(schedule: Callable[[float], Tensor], values: int = 16) -> Trajectory:
    """A schedule for each strength, all of which end together: small steps over a short range where d is small.

    Args:
        schedule: d → levels [≤ n + 1] that end at 0, such as `partial(ksampler_sigmas, levels, sampler, schedule, n)`
            has for `denoise`; a shorter one begins later. It is not asked for d = 0, which never changes.
        values: Distinct strengths, at most; others are rounded between the least and the largest.

    Raises:
        ValueError: values is below 2, or a schedule ends above 0.
    """
    empty = torch.zeros(0, dtype=torch.float64)
    if values < 2:
        raise ValueError(f"values must be ≥ 2 distinct strengths; got {values}")

    def levels(d: Tensor) -> Tensor:
        found, index = quantised(d, values).unique(return_inverse=True)
        rows = [schedule(float(v)).double() if v > 0 else empty for v in found]
        rows = [row if len(row) else torch.zeros(1, dtype=torch.float64) for row in rows]
        for v, row in zip(found, rows):
            if row[-1] > 0:
                raise ValueError(f"a schedule of its own must end at 0; for denoise {v:g} it ends at {row[-1]:g}")
        n = max(map(len, rows))
        table = torch.stack([torch.cat([row[:1].expand(n - len(row)), row]) for row in rows], 1)
        return table[:, index]

    return levels


def quantised(d: Tensor, values: int) -> Tensor:
    """Strengths rounded to this many equally spaced ones; as they are where they have no more distinct values."""
    if len(d.unique()) <= values:
        return d
    low, high = d.min(), d.max()
    return low + ((d - low) / (high - low) * (values - 1)).round() / (values - 1) * (high - low)


def field_from_mask(
    trajectory: Trajectory, mask: Tensor, space: Sequence[int]
) -> Float[Tensor, "levels batch 1 *space"]:
    """A σ-field from a mask of denoise strengths, 0 = keep … 1 = all new, at any resolution: `strength_of`."""
    return trajectory(strength_of(mask, space))


def field_from_tiles(
    trajectory: Trajectory,
    tiles: Sequence[Tile],
    denoise: Sequence[float],
    height: int,
    width: int,
    combine: Combine = painted,
) -> Float[Tensor, "levels 1 1 height width"]:
    """A σ-field from a strength for each tile.

    Args:
        trajectory: Strengths → levels.
        tiles: Tiles that cover the latent.
        denoise: The strength of each.
        height: Rows of the latent.
        width: Columns of the latent.
        combine: The strength of a position that several tiles show, one of `COMBINES`; by default that of its owner,
            the tile whose core it lies in.

    Raises:
        ValueError: A strength lies outside [0, 1].
    """
    _in_range(torch.tensor(denoise, dtype=torch.float64))
    return trajectory(combine(tiles, denoise, height, width))


def strength_of(mask: Tensor, space: Sequence[int]) -> Strength:
    """A mask [*space] or [M, *space], M samples, of any resolution as strengths [M, 1, *space].

    Raises:
        ValueError: A value lies outside [0, 1].
    """
    mask = _in_range(mask.detach().cpu().double())
    return resize_mask(mask.reshape(-1, 1, *mask.shape[-len(space) :]), space)


def _in_range(d: Tensor) -> Tensor:
    if not ((d >= 0) & (d <= 1)).all():
        raise ValueError(f"denoise strengths must lie in [0, 1]; got {float(d.min()):g} … {float(d.max()):g}")
    return d
