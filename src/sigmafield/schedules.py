"""Schedules: which noise levels a run visits, from a number of steps.

Each function returns steps + 1 levels (a few give fewer, and say so), float64 on the CPU, ending in 0. Values
are rounded to float32 where the reference (ComfyUI) rounds them, so they are the same numbers to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sigmafield.maths import near_miss
from sigmafield.param import Levels


@dataclass(frozen=True)
class Schedule:
    """A named schedule: f(steps, levels) → sigmas, with the paper that it is from."""

    name: str
    make: Callable[[int, Levels], Tensor]
    paper: str

    def __call__(self, steps: int, levels: Levels) -> Tensor:
        """Noise levels for `steps` ≥ 1 steps of a network that knows `levels`."""
        if steps < 1:
            raise ValueError(f"steps must be ≥ 1; got {steps}")
        return self.make(steps, levels)


SCHEDULES: dict[str, Schedule] = {}
"""Every named schedule."""


def lookup(name: str) -> Schedule:
    """The schedule of that name; ValueError with the near miss if there is none."""
    if name not in SCHEDULES:
        raise ValueError(f"unknown scheduler {name!r}{near_miss(name, SCHEDULES)}")
    return SCHEDULES[name]


def _named(name: str, paper: str):
    def register(make: Callable[[int, Levels], Tensor]) -> Callable[[int, Levels], Tensor]:
        SCHEDULES[name] = Schedule(name, make, paper)
        return make

    return register


def _to_zero(sigmas: Tensor) -> Tensor:
    """The float32 levels in float64, with the final 0."""
    return torch.cat([sigmas.float().double(), torch.zeros(1, dtype=torch.float64)])


@_named("simple", paper="ComfyUI")
def simple(steps: int, levels: Levels) -> Tensor:
    """Every (N/steps)-th level of the network's table, from the top: σ_k = T[N − 1 − ⌊k N/steps⌋]."""
    stride = len(levels.sigmas) / steps
    return _to_zero(levels.sigmas[[len(levels.sigmas) - 1 - int(k * stride) for k in range(steps)]])


@_named("normal", paper="arXiv:2010.02502")
def normal(steps: int, levels: Levels) -> Tensor:
    """Timesteps equally spaced from the first to the last that the network knows.

    For a shifted flow the way through timesteps shifts the low end twice, as in ComfyUI.
    """
    ends = levels.timestep(torch.stack([levels.sigmas[-1], levels.sigmas[0]]).double())
    first, last = ends.float().tolist()
    if abs(float(levels.sigma(torch.tensor(last)))) <= 1e-5:  # the last level plays the part of 0
        return levels.sigma(torch.linspace(first, last, steps + 1))
    return _to_zero(levels.sigma(torch.linspace(first, last, steps)))


@_named("karras", paper="arXiv:2206.00364 eq. 5")
def _karras(steps: int, levels: Levels) -> Tensor:
    """`karras` between the network's smallest and largest level."""
    return karras(steps, levels.sigma_min, levels.sigma_max)


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """σ_k = (σ_max^(1/ρ) + k/(n − 1) (σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ, k = 0 … n − 1, then 0; σ > 0, ρ > 0."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return _to_zero((high + torch.linspace(0, 1, steps) * (low - high)) ** rho)


@_named("exponential", paper="arXiv:2206.00364")
def _exponential(steps: int, levels: Levels) -> Tensor:
    """`exponential` between the network's smallest and largest level."""
    return exponential(steps, levels.sigma_min, levels.sigma_max)


def exponential(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """ln σ equally spaced from σ_max to σ_min > 0, then 0."""
    return _to_zero(torch.linspace(float(np.log(sigma_max)), float(np.log(sigma_min)), steps).exp())


@_named("beta", paper="arXiv:2407.12173")
def beta(steps: int, levels: Levels, alpha: float = 0.6, beta: float = 0.6) -> Tensor:
    """Levels at the quantiles 1 − k/n of a beta distribution over the network's timesteps; α, β > 0.

    Levels that round to the same timestep are kept once, so long schedules come out shorter than asked for.
    """
    from scipy.special import betaincinv  # here, for it takes longer to import than all of sigmafield

    quantiles = betaincinv(alpha, beta, 1 - np.linspace(0, 1, steps, endpoint=False))
    index = np.rint(quantiles * (len(levels.sigmas) - 1)).astype(int)
    keep = np.concatenate([[True], index[1:] != index[:-1]])
    return _to_zero(levels.sigmas[index[keep].tolist()])


def denoise_tail(schedule: Schedule, steps: int, levels: Levels, denoise: float = 1.0) -> Tensor:
    """The last steps + 1 levels of a schedule with ⌊steps/denoise⌋ steps: image to image, 0 < denoise ≤ 1.

    Above 0.9999 it is the whole schedule. `steps` network evaluations are made whatever `denoise` is.
    """
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise must be above 0 and at most 1; got {denoise}")
    if denoise > 0.9999:
        return schedule(steps, levels)
    return schedule(int(steps / denoise), levels)[-(steps + 1) :]
