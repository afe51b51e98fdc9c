"""What samplers do to a schedule before a run: a first level of finite λ, and the ends of samplers that place steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from sigmafield.core.grid import Grid
from sigmafield.core.process import Flow


def clip_first(grid: Grid, params: Mapping[str, Any]) -> Grid:
    """The grid with σ₀ = 1 of a flow, where λ = −∞, replaced by `Flow.first`; other grids are unchanged.

    As in ComfyUI, x is not rescaled, and noise is drawn for the new σ.

    Args:
        grid: The schedule.
        params: The sampler's parameters, which are not used.
    """
    if not isinstance(grid.process, Flow) or grid.n == 0 or not (grid.sigmas[0] >= 1).any():
        return grid
    first = torch.where(grid.sigmas[:1] >= 1, grid.process.first, grid.sigmas[:1])
    return replace(grid, sigmas=torch.cat([first, grid.sigmas[1:]]))


def ends(grid: Grid, params: Mapping[str, Any]) -> Grid:
    """The single interval from σ₀ to the last σ above 0, for samplers that choose their own steps.

    Args:
        grid: The schedule.
        params: The sampler's parameters; with `denoise_to_zero` a second interval ends at the schedule's final 0.
    """
    if grid.n == 0:
        return grid
    to_zero = grid.sigmas[-1:] == 0
    last = grid.sigmas[-2 if to_zero else -1]
    rest = grid.sigmas[-1:] if to_zero and params["denoise_to_zero"] else grid.sigmas[:0]
    return replace(grid, sigmas=torch.cat([torch.stack([grid.sigmas[0], last]), rest]))
