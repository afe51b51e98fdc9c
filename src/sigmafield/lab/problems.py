"""Distributions with exact scores and marginals that experiments run on in place of a network, by name.

A recipe names one as its model, "analytic:mixture": its batch is the number of particles, and its prompt the numbers
of the components that are meant ("0,2"), or "" for all of them. "analytic:/path/points.npy" is a data set of one's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sigmafield.core.process import VE
from sigmafield.core.registry import near_miss, shown
from sigmafield.models.analytic import GaussianMixture
from sigmafield.parameterization.prediction import Sampling, edm
from sigmafield.parameterization.timesteps import continuous_edm

PREFIX = "analytic:"
"""How the model of a recipe begins that names a problem."""

SAMPLING = Sampling(edm, continuous_edm(sigma_min=0.03, sigma_max=15.0), VE())
"""Levels and process of all problems: about the range of Stable Diffusion."""

SIDE = 8
"""Side of the images of `images`."""

DATA = ".npy"
"""How the name of a file with a data set ends."""

MOST = 4096
"""Points that a data set may have at most: each is a component of the mixture, at each evaluation."""


def gaussian() -> GaussianMixture:
    """One Gaussian in four dimensions with deviations from 2 to 0.1: every ODE solution is in closed form."""
    deviations = torch.tensor([[2.0, 1.0, 0.5, 0.1]], dtype=torch.float64)
    means = torch.tensor([[0.5, -0.5, 0.0, 1.0]], dtype=torch.float64)
    return GaussianMixture(means, deviations, torch.ones(1, dtype=torch.float64), (4, 1, 1))


def mixture() -> GaussianMixture:
    """Three Gaussians in the plane, of unequal weights."""
    means = torch.tensor([[-1.5, -0.8], [0.3, 1.4], [1.4, -0.9]], dtype=torch.float64)
    weights = torch.tensor([0.30, 0.45, 0.25], dtype=torch.float64)
    return GaussianMixture(means, torch.full_like(means, 0.35), weights, (2, 1, 1))


def ring() -> GaussianMixture:
    """A circle of radius 2 in the plane, as 32 narrow Gaussians: curved, and thin against its size."""
    angle = torch.arange(32, dtype=torch.float64) * (2 * math.pi / 32)
    means = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    return GaussianMixture(
        means, torch.full_like(means, 0.15), torch.full((32,), 1 / 32, dtype=torch.float64), (2, 1, 1)
    )


def images() -> GaussianMixture:
    """Five images of 8 x 8 with variation in their lowest frequencies only: 1/f up to f = 3, then 0.02.

    Means and deviations are those of the coefficients of a cosine transform, as in photographs' spectra.
    """
    basis, frequency = _cosines(SIDE)
    generator = torch.Generator().manual_seed(0)
    low = frequency <= 3
    share = torch.where(low, 1 / (1 + frequency), torch.zeros_like(frequency))
    means = 4 * share * torch.randn(5, len(frequency), generator=generator, dtype=torch.float64)
    deviations = torch.where(low, 0.5 * share, torch.full_like(frequency, 0.02)).expand(5, -1).contiguous()
    return GaussianMixture(means, deviations, torch.full((5,), 0.2, dtype=torch.float64), (1, SIDE, SIDE), basis=basis)


PROBLEMS: Mapping[str, Callable[[], GaussianMixture]] = {
    "gaussian": gaussian, "mixture": mixture, "ring": ring, "images": images,
}  # fmt: skip
"""The problems by name."""


def data_set(path: Path) -> GaussianMixture:
    """The kernel density estimate of the rows of a file: a Gaussian around each, with Silverman's bandwidth.

        h_j = s_j (4/((d + 2) n))^(1/(d + 4)),   s_j the deviation of coordinate j

    Silverman, Density Estimation for Statistics and Data Analysis (1986), eq. 4.14.

    Args:
        path: NumPy file with points [n, d], n from 2 to 4096; their deviation should be about 1, since the levels go
            from 0.03 to 15.

    Raises:
        ValueError: The file does not exist, or holds something else.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except Exception as error:  # damaged files make NumPy's reader raise nearly every type of error
        raise ValueError(f"{path} cannot be read as an array: {error}") from None
    shape = getattr(found, "shape", ())
    if len(shape) != 2 or not 2 <= shape[0] <= MOST or not shape[1] or found.dtype.kind not in "fiu":
        raise ValueError(f"{path} must have numbers [points, coordinates], from 2 to {MOST} points; got {shown(shape)}")
    points = torch.from_numpy(found.astype(np.float64))
    deviations = points.std(0)
    if not points.isfinite().all() or not ((deviations > 0) & deviations.isfinite()).all():
        raise ValueError(f"{path} must have finite numbers, of which no coordinate is the same in all points")
    n, d = points.shape
    bandwidth = (deviations * (4 / ((d + 2) * n)) ** (1 / (d + 4))).expand(n, -1).contiguous()
    return GaussianMixture(points, bandwidth, torch.full((n,), 1 / n, dtype=torch.float64), (d, 1, 1))


@cache
def law_of(model: str | None) -> GaussianMixture | None:
    """The distribution that a recipe's model names; None for a network.

    Raises:
        ValueError: The name after "analytic:" is unknown, or its file is not a data set.
    """
    if model is None or not model.startswith(PREFIX):
        return None
    name = model.removeprefix(PREFIX)
    if name.endswith(DATA):
        return data_set(Path(name))
    if name not in PROBLEMS:
        raise ValueError(f"unknown analytic model {name!r}{near_miss(name, PROBLEMS)}")
    return PROBLEMS[name]()


def model_name(name: str) -> str:
    """The model of a recipe from the name that a command is given: "mixture" is the analytic one, others stay."""
    if name.endswith(DATA):
        return f"{PREFIX}{Path(name).resolve()}"
    return f"{PREFIX}{name}" if name in PROBLEMS else name


def components(law: GaussianMixture, prompt: str) -> Tensor:
    """Weights of the components that a prompt names, [components]: "" names all, "0,2" the first and the third.

    Raises:
        ValueError: It is not a list of numbers of components.
    """
    if not prompt.strip():
        return law.weights
    names = [part.strip() for part in prompt.split(",")]
    if not all(name.isdecimal() and int(name) < len(law.weights) for name in names):
        raise ValueError(
            f"the prompt of an analytic model must be numbers of components below {len(law.weights)}, such as 0,1; "
            f"got {prompt!r}"
        )
    kept = torch.zeros_like(law.weights)
    for name in names:
        kept[int(name)] = law.weights[int(name)]
    return kept / kept.sum()


def _cosines(n: int) -> tuple[Tensor, Tensor]:
    """(orthonormal basis [n², n²] of the two-dimensional cosine transform, frequency of each column)."""
    k = torch.arange(n, dtype=torch.float64)
    one = torch.cos(math.pi / n * (k[:, None] + 0.5) * k) * math.sqrt(2 / n)
    one[:, 0] /= math.sqrt(2)
    frequency = (k[:, None].square() + k.square()).sqrt().flatten()
    return torch.kron(one, one), frequency
