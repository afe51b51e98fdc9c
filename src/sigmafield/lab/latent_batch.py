"""What a batch of latents looks like in numbers: is each normal, how large, how like those of another batch?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sigmafield.core.arrays import Latent


@dataclass(frozen=True)
class Statistics:
    """One number for each latent of a batch: p of a Shapiro–Wilk test for normality, mean, standard deviation.

    p under 0.05 is usually taken for "not normal". The deviation is the population's (over n).
    """

    p: list[float]
    mean: list[float]
    std: list[float]


def statistics(batch: Latent) -> Statistics:
    """`Statistics` of the latents of a batch, each over all its numbers; 3 of them or more."""
    from scipy.stats import shapiro  # slow to import

    rows = batch.detach().flatten(1).double().cpu()
    p = [float(shapiro(np.asarray(row)).pvalue) for row in rows]
    return Statistics(p, rows.mean(1).tolist(), rows.std(1, correction=0).tolist())


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosines [B, B] of the angles between each latent of a (rows) and each of b (columns).

    Raises ValueError for batches of other shapes.
    """
    if a.shape != b.shape:
        raise ValueError(f"batches must be of one shape; got {tuple(a.shape)} and {tuple(b.shape)}")
    flat = [batch.flatten(1).double() for batch in (a, b)]
    one, other = (rows / rows.norm(dim=1, keepdim=True) for rows in flat)
    return one @ other.T
