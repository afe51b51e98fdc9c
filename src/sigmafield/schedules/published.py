"""Schedules that were found by optimisation and published as numbers, and schedules of single models."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from sigmafield.core.parameters import Range
from sigmafield.parameterization.timesteps import flux_shift, resolution_shift
from sigmafield.schedules.registry import schedule


@cache
def _published(name: str) -> dict:
    """The noise levels of a paper, by model."""
    return json.loads((files("sigmafield") / "data" / "schedules" / f"{name}.json").read_text("utf-8"))["noise_levels"]


def _fitted(levels: list[float], steps: int) -> Tensor:
    """Published levels for a number of steps, with the last one replaced by 0.

    ln σ is interpolated if the levels were published for another number of steps.
    """
    sigmas = np.asarray(levels, dtype=np.float64)
    if len(sigmas) != steps + 1:
        given, wanted = np.linspace(0, 1, len(sigmas)), np.linspace(0, 1, steps + 1)
        sigmas = np.exp(np.interp(wanted, given, np.log(sigmas[::-1])))[::-1]
    sigmas = torch.from_numpy(sigmas.copy()).float().double()
    sigmas[-1] = 0
    return sigmas


@schedule("align_your_steps", paper="arXiv:2404.14507", network="ve")
def align_your_steps(steps: int, model: Literal["SD1", "SDXL", "SVD"] = "SD1") -> Tensor:
    """Align Your Steps: levels that minimise a KL bound, published for 10 steps; ln σ is interpolated otherwise.

    Args:
        model: Model that the levels were optimised for; SD1 is Stable Diffusion 1 and 2.
    """
    return _fitted(_published("align_your_steps")[model], steps)


@schedule("gits", paper="arXiv:2405.11326", network="ve")
def gits(steps: int, coeff: Annotated[float, Range(0.8, 1.5)] = 1.2) -> Tensor:
    """GITS: levels that follow the shape of the trajectory, published for 2 to 20 steps; ln σ interpolated above.

    Args:
        coeff: Coefficient of the published levels, in steps of 0.05; higher values put more steps at low noise.

    Raises:
        ValueError: If coeff has no published levels or steps is below 2.
    """
    tables = _published("gits")
    rows = {round(float(key), 2): value for key, value in tables.items()}
    if round(coeff, 2) not in rows:
        raise ValueError(f"coeff must be one of {', '.join(f'{key:g}' for key in sorted(rows))}; got {coeff}")
    if steps < 2:
        raise ValueError(f"gits needs at least 2 steps; got {steps}")
    return _fitted(rows[round(coeff, 2)][min(steps, 20) - 2], steps)


@schedule("optimal_steps", paper="arXiv:2503.21774", network="flow")
def optimal_steps(steps: int, model: Literal["FLUX", "Wan", "Chroma"] = "FLUX") -> Tensor:
    """Optimal Steps: levels found by dynamic programming; ln σ interpolated for other numbers of steps.

    Args:
        model: Model that the levels were optimised for: FLUX (published for 10 steps), Wan (20) or Chroma (40).
    """
    return _fitted(_published("optimal_steps")[model], steps)


@schedule("ltxv", paper="arXiv:2501.00103", network="flow")
def ltxv(
    steps: int,
    tokens: Annotated[int, Range(1)] = 4096,
    max_shift: float = 2.05,
    base_shift: float = 0.95,
    stretch: bool = True,
    terminal: Annotated[float, Range(0, 1, below=True)] = 0.1,
) -> Tensor:
    """LTX-Video schedule: equally spaced times under a shift that grows with the number of latent positions.

    Args:
        tokens: Number of latent positions over all frames.
        max_shift: Shift μ at 4096 positions.
        base_shift: Shift μ at 1024 positions.
        stretch: Stretch the levels so that the last one above 0 is `terminal`.
        terminal: Last level above 0 of a stretched schedule.
    """
    mu = resolution_shift(float(tokens), (1024.0, base_shift), (4096.0, max_shift))
    sigmas = flux_shift(mu, torch.linspace(1, 0, steps + 1))
    left = 1 - sigmas[:-1]
    if stretch and left[-1] > 0:
        sigmas[:-1] = 1 - left / (left[-1] / (1 - terminal))
    return sigmas.double()


Pixels = Annotated[int, Range(1)]


@schedule("flux2", paper="FLUX.2", network="flow")
def flux2(steps: int, width: Pixels = 1024, height: Pixels = 1024) -> Tensor:
    """Flux 2 schedule: equally spaced times under a shift that grows with the image and falls with the steps.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
    """
    tokens = round(width * height / 256)
    long = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        mu = long
    else:
        short = 8.73809524e-05 * tokens + 1.89833333
        mu = (long - short) / 190 * steps + long - 200 * (long - short) / 190
    return flux_shift(mu, torch.linspace(1, 0, steps + 1)).double()
