"""Schedules between two noise levels. If an end is a field [B, 1, *space], so is the schedule."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from sigmafield.core.arrays import Sigma
from sigmafield.core.parameters import NonNegative, Positive, Range, Share
from sigmafield.schedules.registry import schedule, to_zero

End = float | Sigma
"""An end of a schedule: a number, or float64 [B, 1, *space]."""

Lowest = Annotated[End, Range(0, above=True)]
Highest = Annotated[End, Range("sigma_min")]


def _ends(sigma_min: End, sigma_max: End) -> tuple[Tensor, Tensor]:
    """Both ends as float64 tensors of one shape; ValueError unless 0 < σ_min ≤ σ_max."""
    low, high = torch.broadcast_tensors(*(torch.as_tensor(v, dtype=torch.float64) for v in (sigma_min, sigma_max)))
    if not ((low > 0) & (low <= high)).all():
        raise ValueError(f"sigma_min must be above 0 and at most sigma_max; got {sigma_min} and {sigma_max}")
    return low, high


def _ramp(start: float, end: float, steps: int, like: Tensor) -> Tensor:
    """float32 numbers from start to end along the first axis, shaped to broadcast over a field."""
    return torch.linspace(start, end, steps).reshape(-1, *[1] * like.ndim)


def _line(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """start … end in float32 for each position of a field, computed by torch.linspace."""
    columns = [torch.linspace(float(a), float(b), steps) for a, b in zip(start.flatten(), end.flatten(), strict=True)]
    return torch.stack(columns, 1).reshape(steps, *start.shape)


@schedule("karras", paper="arXiv:2206.00364 eq. 5")
def karras(steps: int, sigma_min: Lowest, sigma_max: Highest, rho: Positive = 7.0) -> Tensor:
    """Karras schedule: equal steps in σ^(1/ρ) from σ_max to σ_min, then 0.

        σ_k = (σ_max^(1/ρ) + k/(n − 1) (σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ,   k = 0 … n − 1

    Args:
        sigma_min: Smallest level above 0, by default the network's.
        sigma_max: Largest level, by default the network's.
        rho: Exponent ρ; larger values put more steps at low noise, the paper uses 7.
    """
    low, high = (end ** (1 / rho) for end in _ends(sigma_min, sigma_max))
    return to_zero((high.float() + _ramp(0.0, 1.0, steps, low) * (low - high).float()) ** rho)


@schedule("exponential", paper="arXiv:2206.00364")
def exponential(steps: int, sigma_min: Lowest, sigma_max: Highest) -> Tensor:
    """Exponential schedule: ln σ equally spaced from σ_max to σ_min, then 0.

    Args:
        sigma_min: Smallest level above 0, by default the network's.
        sigma_max: Largest level, by default the network's.
    """
    low, high = _ends(sigma_min, sigma_max)
    return to_zero(_line(high.log(), low.log(), steps).exp())


@schedule("polyexponential", paper="arXiv:2206.00364")
def polyexponential(steps: int, sigma_min: Lowest, sigma_max: Highest, rho: NonNegative = 1.0) -> Tensor:
    """Polyexponential schedule: ln σ follows a power of a linear ramp from σ_max to σ_min, then 0.

        ln σ = r^ρ (ln σ_max − ln σ_min) + ln σ_min,   r = 1 … 0

    Args:
        sigma_min: Smallest level above 0, by default the network's.
        sigma_max: Largest level, by default the network's.
        rho: Exponent ρ; 1 is `exponential`, larger values put more steps at low noise.
    """
    low, high = (end.log() for end in _ends(sigma_min, sigma_max))
    return to_zero((_ramp(1.0, 0.0, steps, low) ** rho * (high - low).float() + low.float()).exp())


@schedule("kl_optimal", paper="arXiv:2404.14507")
def kl_optimal(steps: int, sigma_min: Lowest, sigma_max: Highest) -> Tensor:
    """KL-optimal schedule: arctan σ equally spaced from σ_max to σ_min, then 0; it minimises a KL bound.

        σ_k = tan(u arctan σ_min + (1 − u) arctan σ_max),   u = k/(n − 1)

    With one step it is [σ_max, 0], where the reference gives NaN.

    Args:
        sigma_min: Smallest level above 0, by default the network's.
        sigma_max: Largest level, by default the network's.
    """
    ends = _ends(sigma_min, sigma_max)
    if steps == 1:
        return to_zero(ends[1][None])
    low, high = (end.atan().float() for end in ends)
    u = torch.arange(steps, dtype=torch.float32).reshape(-1, *[1] * low.ndim) / (steps - 1)
    return to_zero((u * low + (1 - u) * high).tan())


@schedule("laplace", paper="arXiv:2407.03297", network="ve")
def laplace(steps: int, sigma_min: Lowest, sigma_max: Highest, mu: float = 0.0, beta: NonNegative = 0.5) -> Tensor:
    """Laplace schedule: quantiles of a Laplace distribution of ln σ, clamped to σ_min … σ_max.

        ln σ = μ − β sign(½ − u) ln(1 − 2 |½ − u| + 10⁻⁵),   u = 0 … 1

    The result has `steps` levels and ends above 0, so it makes steps − 1 steps and the last noise remains, as in
    ComfyUI.

    Args:
        sigma_min: Smallest level, by default the network's.
        sigma_max: Largest level, by default the network's.
        mu: Mean μ of ln σ; 0 centres the levels at σ = 1.
        beta: Scale β of the distribution; 0 puts all levels at the mean.
    """
    low, high = _ends(sigma_min, sigma_max)
    away = 0.5 - _ramp(0.0, 1.0, steps, low)
    sigma = (mu - beta * away.sign() * (1 - 2 * away.abs() + 1e-5).log()).exp()
    return torch.minimum(torch.maximum(sigma, low.float()), high.float()).double()


@schedule("vp", paper="arXiv:2011.13456", network="ve")
def vp(steps: int, beta_d: NonNegative = 19.9, beta_min: NonNegative = 0.1, eps_s: Share = 0.001) -> Tensor:
    """VP schedule: levels of the variance-preserving SDE at equally spaced times from 1 to eps_s, then 0.

        σ = √(e^(β_d t²/2 + β_min t) − 1)

    Args:
        beta_d: Slope of β(t) = β_min + β_d t; the default is the paper's.
        beta_min: β at time 0; the default is the paper's.
        eps_s: Time of the last level above 0.

    Raises:
        ValueError: If beta_d and beta_min are both 0.
    """
    if not beta_d + beta_min > 0:
        raise ValueError(f"beta_d and beta_min must not both be 0; got {beta_d} and {beta_min}")
    t = torch.linspace(1, eps_s, steps)
    return to_zero(torch.expm1(beta_d * t**2 / 2 + beta_min * t).sqrt())
