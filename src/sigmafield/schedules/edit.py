"""Cutting, reversing and refining schedules: [levels] or σ-fields [levels, B, 1, *space], float64.

No function changes its arguments in place.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from sigmafield.core.registry import named
from sigmafield.parameterization.timesteps import Levels

SPACINGS = {
    "linear": lambda u: u,
    "cosine": lambda u: math.sin(math.pi * u / 2),
    "sine": lambda u: 1 - math.cos(math.pi * u / 2),
}
"""f(u) of `extend_intermediate`, from f(0) = 0 to f(1) = 1."""


def split(sigmas: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Split a schedule after a number of steps; the level at the split is in both parts.

    Args:
        sigmas: Levels of the schedule.
        step: Number of steps in the first part, at least 0.

    Returns:
        The two parts.

    Raises:
        ValueError: If step is negative.
    """
    if step < 0:
        raise ValueError(f"step must be ≥ 0; got {step}")
    return sigmas[: step + 1], sigmas[step:]


def split_denoise(sigmas: Tensor, denoise: float) -> tuple[Tensor, Tensor]:
    """Split a schedule so that the second part is the last round(steps · denoise) steps.

    As in ComfyUI, the first part is empty at denoise = 0. The second part is also how tables (`align_your_steps`,
    `gits`, `optimal_steps`) start from an image.

    Args:
        sigmas: Levels of the schedule.
        denoise: Share of the steps in the second part, 0 to 1.

    Returns:
        The two parts.

    Raises:
        ValueError: If denoise is out of range.
    """
    if not 0 <= denoise <= 1:
        raise ValueError(f"denoise must be 0 … 1; got {denoise}")
    kept = round(max(len(sigmas) - 1, 0) * denoise)
    return sigmas[:-kept] if kept else sigmas[:0], sigmas[-(kept + 1) :]


def flip(sigmas: Tensor) -> Tensor:
    """The schedule in reverse order, from an image to noise; a 0 at its new start becomes 0.0001."""
    turned = sigmas.flip(0)
    turned[:1] = torch.where(turned[:1] == 0, 1e-4, turned[:1])
    return turned


def set_first(sigmas: Tensor, sigma: float) -> Tensor:
    """The schedule with another first level.

    Args:
        sigmas: Levels of the schedule.
        sigma: The new first level, at least 0.

    Raises:
        ValueError: If the schedule is empty.
    """
    if not len(sigmas):
        raise ValueError("sigmas must have a first level to set; got none")
    return torch.cat([torch.full_like(sigmas[:1], sigma), sigmas[1:]])


def extend_intermediate(
    sigmas: Tensor, steps: int = 2, start: float = math.inf, end: float = 12.0, spacing: str = "linear"
) -> Tensor:
    """Cut every interval that begins at a level in [end, start] into several steps.

    The cuts are at f(j/steps) of the way through the interval.

    Args:
        sigmas: Levels [levels]; fields are refused, because their intervals begin at many levels.
        steps: Number of steps that replace each interval.
        start: Largest level at which an interval is cut.
        end: Smallest level at which an interval is cut.
        spacing: Name of f in `SPACINGS`.

    Raises:
        ValueError: If sigmas is a field, spacing is unknown or steps is below 1.
    """
    if sigmas.ndim != 1:
        raise ValueError(f"extend_intermediate needs one sigma per step; got shape {tuple(sigmas.shape)}")
    f = named(SPACINGS, spacing, "spacing")
    if steps < 1:
        raise ValueError(f"steps must be ≥ 1; got {steps}")
    out = []
    for a, b in zip(sigmas.tolist()[:-1], sigmas.tolist()[1:], strict=True):
        cuts = steps if end <= a <= start else 1
        out += [a + f(j / cuts) * (b - a) if j else a for j in range(cuts)]
    return torch.tensor(out + sigmas[-1:].tolist(), dtype=torch.float64)


def manual(text: str) -> Tensor:
    """The numbers in a text such as "14.6, 7.5 3.1; 0" as float64 levels.

    As in ComfyUI, exponents are not understood: "1e-3" is read as 1 and −3.
    """
    numbers = re.findall(r"[-+]?\d*\.*\d+", text)
    try:
        return torch.tensor([float(number) for number in numbers], dtype=torch.float64)
    except ValueError as error:
        raise ValueError(f"sigmas must be numbers: {error}") from None


def sigma_at(levels: Levels, percent: float) -> float:
    """σ at a share of the way through the network's levels: exactly its largest at 0 and its smallest at 1.

    At these two shares `levels.sigma_at` itself returns a level above all others and 0.

    Args:
        levels: Levels of the network.
        percent: Share of the way through sampling, 0 to 1.

    Raises:
        ValueError: If percent is out of range.
    """
    if not 0 <= percent <= 1:
        raise ValueError(f"percent must be 0 … 1; got {percent}")
    return levels.sigma_max if percent == 0 else levels.sigma_min if percent == 1 else levels.sigma_at(percent)
