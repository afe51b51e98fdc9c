"""Measures of each sample of a batch: over all axes but the first, kept as [B, 1, …]."""

from __future__ import annotations

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.typed import vector_norm

TINY = 1e-12
"""Least norm that is divided by, so that 0/0 is 0."""


def inner(a: Latent, b: Latent) -> Tensor:
    """⟨a, b⟩."""
    return (a * b).sum(_inside(a), keepdim=True)


def norm(a: Latent) -> Tensor:
    """‖a‖₂."""
    return vector_norm(a, _inside(a), keepdim=True)


def std(a: Latent) -> Tensor:
    """Standard deviation, with n − 1."""
    return a.std(_inside(a), keepdim=True)


def _inside(a: Latent) -> tuple[int, ...]:
    return tuple(range(1, a.ndim))


def moments(x: Latent) -> tuple[Tensor, Tensor]:
    """(mean, unbiased deviation) of each sample over channels and space, [B, 1, …]."""
    return x.mean(_inside(x), keepdim=True), std(x)


def standardised(x: Latent, mean: Tensor, std: Tensor) -> Tensor:
    """x with each sample's mean and deviation changed to those given; a constant sample becomes the mean.

    Args:
        x: Latents.
        mean: The new mean of each sample, [B, 1, …].
        std: Its new deviation.
    """
    own, spread = moments(x)
    return (x - own) / torch.where(spread == 0, torch.ones_like(spread), spread) * std + mean
