"""Windows of time: between which shares of the way through sampling something acts."""

from __future__ import annotations

import torch
from torch import Tensor

from sigmafield.core.arrays import Sigma
from sigmafield.core.process import Clock

TimeWindow = tuple[float | None, float | None]
"""Shares of the way through sampling, 0 = start … 1 = end, between which something acts; None: without an end."""


def within(window: TimeWindow, sigma: Sigma, clock: Clock) -> Tensor:
    """Where σ lies in a window, ends included.

    Args:
        window: When something acts.
        sigma: Noise levels, a number or a field.
        clock: Gives the noise level at a share of the way through sampling.

    Returns:
        Booleans on the CPU, of σ's shape.
    """
    start, end = (None if p is None else clock(p) for p in window)
    inside = torch.ones_like(sigma, dtype=torch.bool)
    if start is not None:
        inside = inside & (sigma <= start)
    return inside if end is None else inside & (sigma >= end)
