"""Schedules that were found by optimisation and published as numbers, and those of single models."""

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
    """Published levels for this number of steps, ln σ interpolated if they are for another; the last becomes 0."""
    sigmas = np.asarray(levels, dtype=np.float64)
    if len(sigmas) != steps + 1:
        given, wanted = np.linspace(0, 1, len(sigmas)), np.linspace(0, 1, steps + 1)
        sigmas = np.exp(np.interp(wanted, given, np.log(sigmas[::-1])))[::-1]
    sigmas = torch.from_numpy(sigmas.copy()).float().double()
    sigmas[-1] = 0
    return sigmas


@schedule("align_your_steps", paper="arXiv:2404.14507", network="ve")
def align_your_steps(steps: int, model: Literal["SD1", "SDXL", "SVD"] = "SD1") -> Tensor:
    """Levels that minimise a KL bound for a model: published for 10 steps, ln σ interpolated else.

    model: SD1 (1 and 2), SDXL or SVD.
    """
    return _fitted(_published("align_your_steps")[model], steps)


@schedule("gits", paper="arXiv:2405.11326", network="ve")
def gits(steps: int, coeff: Annotated[float, Range(0.8, 1.5)] = 1.2) -> Tensor:
    """Levels that follow the shape of the trajectory: published for 2 to 20 steps, ln σ interpolated above.

    0.8 ≤ coeff ≤ 1.5 in steps of 0.05: higher puts more steps at low noise.
    """
    tables = _published("gits")
    rows = {round(float(key), 2): value for key, value in tables.items()}
    if round(coeff, 2) not in rows:
        raise ValueError(f"coeff must be one of {', '.join(f'{key:g}' for key in sorted(rows))}; got {coeff}")
    if steps < 2:
        raise ValueError(f"gits has at least 2 steps; got {steps}")
    return _fitted(rows[round(coeff, 2)][min(steps, 20) - 2], steps)


@schedule("optimal_steps", paper="arXiv:2503.21774", network="flow")
def optimal_steps(steps: int, model: Literal["FLUX", "Wan", "Chroma"] = "FLUX") -> Tensor:
    """Levels found by dynamic programming for a model; ln σ interpolated for other numbers of steps.

    model: FLUX (published for 10 steps), Wan (20) or Chroma (40).
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
    """Equally spaced times under LTX-Video's shift, which grows with the number of latent places.

    tokens ≥ 1: latent places, frames and all. base_shift, max_shift: μ at 1024 and at 4096 of them, any numbers.
    stretch: the last level above 0 becomes terminal, 0 ≤ terminal < 1.
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
    """Equally spaced times under Flux 2's shift, which grows with the image and falls with the steps.

    width ≥ 1, height ≥ 1: of the image, in pixels.
    """
    tokens = round(width * height / 256)
    long = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        mu = long
    else:
        short = 8.73809524e-05 * tokens + 1.89833333
        mu = (long - short) / 190 * steps + long - 200 * (long - short) / 190
    return flux_shift(mu, torch.linspace(1, 0, steps + 1)).double()
