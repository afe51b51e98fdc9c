"""Schedules that visit the levels a network was trained on, by its table or its clock."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sigmafield.core.parameters import Positive, Range, Share
from sigmafield.parameterization.timesteps import Levels
from sigmafield.schedules.registry import schedule, to_zero


@schedule("simple", paper="ComfyUI")
def simple(steps: int, levels: Levels) -> Tensor:
    """Simple schedule: every (N/steps)-th level of the network's table from the top, then 0.

    σ_k = T[N − 1 − ⌊k N/steps⌋]
    """
    stride = len(levels.sigmas) / steps
    return to_zero(levels.sigmas[[len(levels.sigmas) - 1 - int(k * stride) for k in range(steps)]])


@schedule("sgm_uniform", paper="arXiv:2307.01952")
def sgm_uniform(steps: int, levels: Levels) -> Tensor:
    """SGM uniform schedule: the first `steps` of steps + 1 equally spaced timesteps ("trailing"), then 0.

    Timesteps run from that of the largest level to that of the smallest. For a flow with a time shift, going through
    timesteps shifts the low end twice, as in ComfyUI.
    """
    first, last = _clock_ends(levels)
    return to_zero(levels.sigma(torch.linspace(first, last, steps + 1)[:-1]))


@schedule("normal", paper="arXiv:2010.02502")
def normal(steps: int, levels: Levels) -> Tensor:
    """Normal schedule: timesteps equally spaced from the first to the last that the network knows, then 0.

    If the last level is 0 already, no second 0 is appended and there is one more timestep. For a flow with a time
    shift, going through timesteps shifts the low end twice, as in ComfyUI.
    """
    first, last = _clock_ends(levels)
    if abs(float(levels.sigma(torch.tensor(last)))) <= 1e-5:  # the last level already counts as 0
        return levels.sigma(torch.linspace(first, last, steps + 1))
    return to_zero(levels.sigma(torch.linspace(first, last, steps)))


def _clock_ends(levels: Levels) -> tuple[float, float]:
    """Timesteps of the largest and of the smallest level."""
    ends = levels.timestep(torch.stack([levels.sigmas[-1], levels.sigmas[0]]).double())
    first, last = ends.float().tolist()
    return first, last


@schedule("ddim_uniform", paper="arXiv:2010.02502")
def ddim_uniform(steps: int, levels: Levels) -> Tensor:
    """DDIM uniform schedule: every q-th level of the network's table from the second ("leading"), then 0.

        q = max(⌊N/steps⌋, 1)

    It has ⌈(N − 1)/q⌉ steps, which may be more or fewer than asked for, and seldom begins at the largest level. If the
    second level is 0 already, no second 0 is appended and q = max(⌊N/(steps + 1)⌋, 1).
    """
    table = levels.sigmas
    ends_at_zero = bool(table[1].abs() <= 1e-5)  # the second level already counts as 0
    stride = max(len(table) // (steps + ends_at_zero), 1)
    picked = table[1::stride].flip(0)
    return picked.double() if ends_at_zero else to_zero(picked)


@schedule("beta", paper="arXiv:2407.12173")
def beta(steps: int, levels: Levels, alpha: Positive = 0.6, beta: Positive = 0.6) -> Tensor:
    """Beta schedule: levels at the quantiles 1 − k/n of a beta distribution over the network's timesteps, then 0.

    Levels that round to the same timestep are kept once, so long schedules have fewer steps than asked for.

    Args:
        alpha: First parameter of the distribution; lower values put more levels at low noise.
        beta: Second parameter of the distribution; lower values put more levels at high noise.
    """
    from scipy.special import betaincinv  # here: it takes longer to import than all of sigmafield

    quantiles = betaincinv(alpha, beta, 1 - np.linspace(0, 1, steps, endpoint=False))
    index = np.rint(quantiles * (len(levels.sigmas) - 1)).astype(int)
    keep = np.concatenate([[True], index[1:] != index[:-1]])
    return to_zero(levels.sigmas[index[keep].tolist()])


@schedule("linear_quadratic", paper="arXiv:2410.13720")
def linear_quadratic(
    steps: int,
    levels: Levels,
    threshold: Annotated[float, Range(0, 1, above=True, below=True)] = 0.025,
    linear_steps: Annotated[int | None, Range(1)] = None,
) -> Tensor:
    """Linear-quadratic schedule: 1 − σ/σ_max rises linearly to a threshold, then quadratically to 1.

        σ_k = (1 − y_k) σ_max
        y = τ k/L, k < L;   y = a k² + b k + a L²,   a = Δ/(L Q²),   b = τ/L − 2 Δ/Q²,   Δ = L − τ n,   Q = n − L

    Args:
        threshold: Value τ of 1 − σ/σ_max where the linear part ends, at most 2 L/(n + L), above which y would not rise
            to its end.
        linear_steps: Number L of linear steps, fewer than all; by default half of them.

    Raises:
        ValueError: If linear_steps or threshold does not fit the number of steps.
    """
    top = levels.sigmas[-1]
    linear = steps // 2 if linear_steps is None else linear_steps
    if steps == 1:
        return to_zero(top.reshape(1))
    if not 1 <= linear < steps:
        raise ValueError(f"linear_steps must be 1 … steps - 1 = {steps - 1}; got {linear}")
    if threshold > (most := 2 * linear / (steps + linear)):
        raise ValueError(f"threshold must be at most {most:g} with {linear} of {steps} steps linear; got {threshold}")
    rest = steps - linear
    delta = linear - threshold * steps
    a, b = delta / (linear * rest**2), threshold / linear - 2 * delta / rest**2
    k = np.arange(steps)
    y = np.where(k < linear, threshold * k / linear, a * k**2 + b * k + a * linear**2)
    return to_zero(torch.from_numpy(1 - y).float() * top)


@schedule("sd_turbo", paper="arXiv:2311.17042", network="ve")
def sd_turbo(steps: int, levels: Levels, denoise: Share = 1.0) -> Tensor:
    """SD Turbo schedule: the levels of a distilled network at timesteps 999, 899, … 99, then 0.

    It has at most ten steps, and fewer if denoise leaves fewer.

    Args:
        denoise: Share of the ten levels that are used; the noisiest ones are left out.
    """
    skipped = 10 - int(10 * denoise)
    return to_zero(levels.sigma(torch.arange(999, 0, -100)[skipped : skipped + steps]))
