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
    """Every (N/steps)-th level of the network's table, from the top: σ_k = T[N − 1 − ⌊k N/steps⌋]."""
    stride = len(levels.sigmas) / steps
    return to_zero(levels.sigmas[[len(levels.sigmas) - 1 - int(k * stride) for k in range(steps)]])


@schedule("sgm_uniform", paper="arXiv:2307.01952")
def sgm_uniform(steps: int, levels: Levels) -> Tensor:
    """The first `steps` of steps + 1 timesteps equally spaced from the first to the last: "trailing" timesteps.

    For a shifted flow the way through timesteps shifts the low end twice, as in ComfyUI.
    """
    first, last = _clock_ends(levels)
    return to_zero(levels.sigma(torch.linspace(first, last, steps + 1)[:-1]))


@schedule("normal", paper="arXiv:2010.02502")
def normal(steps: int, levels: Levels) -> Tensor:
    """Timesteps equally spaced from the first to the last that the network knows.

    For a shifted flow the way through timesteps shifts the low end twice, as in ComfyUI.
    """
    first, last = _clock_ends(levels)
    if abs(float(levels.sigma(torch.tensor(last)))) <= 1e-5:  # the last level plays the part of 0
        return levels.sigma(torch.linspace(first, last, steps + 1))
    return to_zero(levels.sigma(torch.linspace(first, last, steps)))


def _clock_ends(levels: Levels) -> tuple[float, float]:
    """Timesteps of the largest and the smallest level."""
    ends = levels.timestep(torch.stack([levels.sigmas[-1], levels.sigmas[0]]).double())
    first, last = ends.float().tolist()
    return first, last


@schedule("ddim_uniform", paper="arXiv:2010.02502")
def ddim_uniform(steps: int, levels: Levels) -> Tensor:
    """Every q-th level of the network's table from the second, q = max(⌊N/steps⌋, 1): "leading" timesteps.

    It has ⌈(N − 1)/q⌉ steps, which may be more or fewer than asked for, and seldom begins at the largest level.
    """
    table = levels.sigmas
    ends_at_zero = bool(table[1].abs() <= 1e-5)  # then its second level plays the part of 0
    stride = max(len(table) // (steps + ends_at_zero), 1)
    picked = table[1::stride].flip(0)
    return picked.double() if ends_at_zero else to_zero(picked)


@schedule("beta", paper="arXiv:2407.12173")
def beta(steps: int, levels: Levels, alpha: Positive = 0.6, beta: Positive = 0.6) -> Tensor:
    """Levels at the quantiles 1 − k/n of a beta distribution over the network's timesteps.

    Levels that round to the same timestep are kept once, so long schedules come out shorter than asked for.
    alpha > 0, beta > 0: of the distribution; lower alpha has more levels at low noise, lower beta more at high noise.
    """
    from scipy.special import betaincinv  # here, for it takes longer to import than all of sigmafield

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
    """σ_k = (1 − y_k) σ_max: y rises linearly to a threshold in the first steps, then quadratically to 1.

        y = τ k/L, k < L;   y = a k² + b k + a L²,   a = Δ/(L Q²),   b = τ/L − 2 Δ/Q²,   Δ = L − τ n,   Q = n − L

    0 < threshold < 1: τ, and at most 2 L/(n + L), above which y would not rise to its end.
    linear_steps ≥ 1: L, fewer than all; by default half.
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
    """The levels at timesteps 999, 899, … 99 of a distilled network. At most ten steps, fewer where they end.

    0 ≤ denoise ≤ 1: the share of these ten that is left, the first are left out.
    """
    skipped = 10 - int(10 * denoise)
    return to_zero(levels.sigma(torch.arange(999, 0, -100)[skipped : skipped + steps]))
