"""Statistics of a batch of latents: whether each is normal, its mean and deviation, its similarity to others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sigmafield.core.arrays import Latent


@dataclass(frozen=True)
class Statistics:
    """One number for each latent of a batch.

    Args:
        p: p-value of a Shapiro–Wilk test for normality; below 0.05 usually counts as "not normal".
        mean: Mean.
        std: Standard deviation of the population (over n).
    """

    p: list[float]
    mean: list[float]
    std: list[float]


def statistics(batch: Latent) -> Statistics:
    """`Statistics` of the latents of a batch, each over all its numbers; at least 3 numbers each."""
    from scipy.stats import shapiro  # slow to import

    rows = batch.detach().flatten(1).double().cpu()
    p = [float(shapiro(np.asarray(row)).pvalue) for row in rows]
    return Statistics(p, rows.mean(1).tolist(), rows.std(1, correction=0).tolist())


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of the angles between each latent of a and each of b.

    Args:
        a: Batch of latents [B, …], the rows of the result.
        b: Batch of the same shape, the columns of the result.

    Returns:
        Matrix [B, B].

    Raises:
        ValueError: If the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"batches must be of one shape; got {tuple(a.shape)} and {tuple(b.shape)}")
    flat = [batch.flatten(1).double() for batch in (a, b)]
    one, other = (rows / rows.norm(dim=1, keepdim=True) for rows in flat)
    return one @ other.T
