"""Distances between two samples of a distribution, and of their moments."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PROJECTIONS = 64
"""Directions of a sliced distance."""


def sliced_wasserstein(a: Tensor, b: Tensor, seed: int = 0) -> float:
    """Sliced Wasserstein-2 distance: the root mean square of the distances along random directions.

        SW² = E_θ W₂²(θ·a, θ·b)

    Bonneel et al., J. Math. Imaging Vis. 51 (2015). Two samples of n points of the same distribution are about
    n^(−½) apart.

    Args:
        a: Points [n, …].
        b: As many points.
        seed: Of the directions.

    Raises:
        ValueError: The samples have different shapes.
    """
    if a.shape != b.shape:
        raise ValueError(f"samples must be of one shape; got {tuple(a.shape)} and {tuple(b.shape)}")
    one, other = a.flatten(1).double(), b.flatten(1).double()
    directions = torch.randn(
        one.shape[1], PROJECTIONS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    directions = directions / directions.norm(dim=0)
    along = [(points @ directions).sort(0).values for points in (one, other)]
    return float((along[0] - along[1]).square().mean().sqrt())


def energy_distance(a: Tensor, b: Tensor) -> float:
    """The energy distance, without bias: 2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖; near 0, and also below, for equal laws.

    Székely & Rizzo, J. Stat. Plan. Inference 143 (2013).

    Args:
        a: Points [n, …], n at least 2.
        b: Points [m, …], m at least 2.
    """
    one, other = a.flatten(1).double(), b.flatten(1).double()
    within = [float(torch.pdist(points).mean()) for points in (one, other)]
    return 2 * float(torch.cdist(one, other).mean()) - sum(within)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The Wasserstein-2 distance, squared, of Gaussians with the moments of two samples.

        ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a^½ Σ_b Σ_a^½)^½)

    Args:
        a: Points [n, …].
        b: Points [m, …].
    """
    moments = [(points.flatten(1).double().mean(0), _covariance(points)) for points in (a, b)]
    return gaussian_distance(moments[0], moments[1])


def gaussian_distance(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """The Wasserstein-2 distance, squared, of two Gaussians: each is (mean [d], covariance [d, d])."""
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    root = _root(cov_a)
    cross = _root(root @ cov_b @ root)
    return float((mean_a - mean_b).square().sum() + (cov_a + cov_b - 2 * cross).trace())


def mean_pairwise(points: Tensor) -> float:
    """The mean distance between two different points of a sample, root mean square over their numbers."""
    flat = points.flatten(1).double()
    return float(torch.pdist(flat).mean()) / flat.shape[1] ** 0.5


def nearest(points: Tensor, others: Tensor) -> np.ndarray:
    """The distance of each point to the nearest of others, root mean square over their numbers."""
    one, other = points.flatten(1).double(), others.flatten(1).double()
    return torch.cdist(one, other).min(1).values.numpy() / one.shape[1] ** 0.5


def _covariance(points: Tensor) -> Tensor:
    flat = points.flatten(1).double()
    return flat.T.cov() if flat.shape[1] > 1 else flat.var(0).reshape(1, 1)


def _root(matrix: Tensor) -> Tensor:
    """The square root of a symmetric matrix without negative eigenvalues, apart from rounding."""
    found, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return vectors @ torch.diag(found.clamp(min=0).sqrt()) @ vectors.T
