"""The noise levels that a network knows, and its clock: σ ↔ timestep ↔ percent of the way through sampling.

Tables are float32 as in the reference (ComfyUI), so that schedules visit the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from sigmafield.core.arrays import Sigma
from sigmafield.core.registry import near_miss

Time = TypeVar("Time", float, Tensor)

BEGINNING = 999999999.9
"""Level at 0 % of variance-exploding processes: above every σ, so that anything that begins there is always active."""

BETA_SCHEDULES = ("scaled_linear", "linear", "sqrt", "cosine", "squaredcos_cap_v2")


@dataclass(frozen=True)
class Levels:
    """The noise levels that a network was trained on, and its clock.

    Args:
        sigmas: Table of levels [N], ascending, float32.
        timestep: σ → the timestep that the network is given, float64 of σ's shape.
        sigma: Timesteps → σ, for tensors: the float32 values of the reference as float64.
        sigma_at: Share of the way through sampling → σ: 0 is the start (most noise), 1 the end.
    """

    sigmas: Tensor = field(repr=False)
    timestep: Callable[[Sigma], Tensor]
    sigma: Callable[[Tensor], Sigma]
    sigma_at: Callable[[float], float]

    @property
    def sigma_min(self) -> float:
        """Smallest level of the table."""
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        """Largest level of the table."""
        return float(self.sigmas[-1])


def betas(schedule: str = "scaled_linear", start: float = 0.00085, end: float = 0.012, n: int = 1000) -> np.ndarray:
    """Variances β of a DDPM, float64 [n].

    Args:
        schedule: diffusers' name: scaled_linear is linear in √β (Stable Diffusion), linear is linear in β, sqrt is the
            square root of linear; cosine and squaredcos_cap_v2 follow from a squared cosine ᾱ and are capped at 0.999
            (they differ by rounding, because cosine divides by ᾱ₀).
        start: First β; not used by the cosines.
        end: Last β; not used by the cosines.
        n: Number of training steps.

    Raises:
        ValueError: If the schedule is unknown.
    """
    if schedule == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, n) ** 2
    if schedule == "linear":
        return np.linspace(start, end, n)
    if schedule == "sqrt":
        return np.linspace(start, end, n) ** 0.5
    if schedule in ("cosine", "squaredcos_cap_v2"):
        bar = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
        bar = bar / bar[0] if schedule == "cosine" else bar
        return np.clip(1 - bar[1:] / bar[:-1], 0, 0.999)
    raise ValueError(f"unknown beta schedule {schedule!r}{near_miss(schedule, BETA_SCHEDULES)}")


def discrete(beta: np.ndarray, zsnr: bool = False) -> Levels:
    """Noise levels of a DDPM with variances β: σ² = (1 − ᾱ)/ᾱ; t is the index of the nearest level in ln σ.

    Args:
        beta: Variances β of the training steps.
        zsnr: Whether to rescale so that the last level is pure noise, arXiv:2305.08891.
    """
    exact = _exact(beta, zsnr)
    return _log_linear(exact.float(), exact.log().float(), stride=1, first=0)


def distilled(beta: np.ndarray, zsnr: bool = False, kept: int = 50) -> Levels:
    """Levels that a latent consistency model was distilled at: every (N/kept)-th of `discrete`, from the top.

    t is one of N/kept − 1, 2 N/kept − 1, … N − 1. Luo et al., arXiv:2310.04378.

    Args:
        beta: Variances β of the training steps.
        zsnr: Whether to rescale so that the last level is pure noise.
        kept: Number of levels.
    """
    exact = _exact(beta, zsnr)
    stride = len(exact) // kept
    sigmas = exact.float()[stride - 1 :: stride]
    return _log_linear(sigmas, sigmas.log(), stride, first=stride - 1)


def _exact(beta: np.ndarray, zsnr: bool) -> Tensor:
    """σ of each training step, float64."""
    bar = np.cumprod(1 - beta)
    if zsnr:
        root = np.sqrt(bar)
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        bar = root**2
        bar[-1] = 4.8973451890853435e-08  # keeps the last level finite, as in the reference
    return torch.from_numpy(np.sqrt((1 - bar) / bar))


def _log_linear(sigmas: Tensor, logs: Tensor, stride: int, first: int) -> Levels:
    """Levels at the timesteps first, first + stride, …, with ln σ linear in between."""

    def timestep(sigma: Sigma) -> Tensor:
        nearest = (sigma.float().log().reshape(-1, 1) - logs).abs().argmin(dim=1)
        return (nearest * stride + first).reshape(sigma.shape).double()

    def sigma(t: Tensor) -> Sigma:
        u = ((t.float() - first) / stride).clamp(0, len(sigmas) - 1)
        low, high, w = u.floor().long(), u.ceil().long(), u.frac()
        return ((1 - w) * logs[low] + w * logs[high]).exp().double()

    # the clock of percents has 1000 ticks for any table length, as in the reference
    at = _between(lambda percent: float(sigma(torch.tensor((1 - percent) * 999.0))), BEGINNING)
    return Levels(sigmas, timestep, sigma, at)


def _between(level: Callable[[float], float], beginning: float) -> Callable[[float], float]:
    """percent → σ: `beginning` at 0 and before, 0 at 1 and after, `level` in between."""
    return lambda percent: beginning if percent <= 0 else 0.0 if percent >= 1 else level(percent)


def continuous_edm(sigma_min: float = 0.002, sigma_max: float = 120.0) -> Levels:
    """Every level of [σ_min, σ_max]; the clock is t = ln(σ)/4. Karras et al., arXiv:2206.00364."""
    return _continuous(
        sigma_min, sigma_max, lambda sigma: (sigma.float().log() / 4).double(), lambda t: (4 * t.float()).exp().double()
    )


def continuous_v(sigma_min: float = 0.03, sigma_max: float = 500.0) -> Levels:
    """Every level of [σ_min, σ_max]; the clock is t = (2/π) arctan σ. arXiv:2202.00512."""

    def sigma(t: Tensor) -> Sigma:
        return (t.float() * math.pi / 2).tan().double()

    return _continuous(sigma_min, sigma_max, lambda sigma: (sigma.float().atan() / math.pi * 2).double(), sigma)


def cosmos(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Levels:
    """Every level of [σ_min, σ_max]; the clock is t = σ/(σ + 1), a rectified flow's time. NVIDIA Cosmos Predict 2."""
    last = sigma_max / (sigma_max + 1)

    def sigma(t: Tensor) -> Sigma:
        t = t.float()
        return torch.where(t >= last, sigma_max, t / (1 - t)).double()

    return _continuous(sigma_min, sigma_max, lambda sigma: sigma / (sigma + 1), sigma)


def _continuous(
    sigma_min: float, sigma_max: float, timestep: Callable[[Sigma], Tensor], sigma: Callable[[Tensor], Sigma]
) -> Levels:
    """Levels of a clock that covers every σ, with a table of 1000 levels equally spaced in ln σ."""
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min must be above 0 and below sigma_max = {sigma_max}; got {sigma_min}")
    table = torch.linspace(math.log(sigma_min), math.log(sigma_max), 1000).exp()
    low, high = math.log(float(table[0])), math.log(float(table[-1]))
    return Levels(table, timestep, sigma, _between(lambda p: math.exp(low + (high - low) * (1 - p)), BEGINNING))


def shifted_flow(shift: float = 1.0, multiplier: float = 1000.0, n: int = 1000) -> Levels:
    """Noise levels of a rectified flow under the time shift Φ(u) = s u/(1 + (s − 1) u); t = multiplier · σ.

    For s ≠ 1, timestep and sigma are not inverse to each other: schedules that go through both shift twice, as in
    ComfyUI. Esser et al., arXiv:2403.03206.

    Args:
        shift: Time shift s, above 0.
        multiplier: Timestep at σ = 1.
        n: Number of levels in the table.

    Raises:
        ValueError: If the shift is not above 0.
    """
    if shift <= 0:
        raise ValueError(f"shift must be above 0; got {shift}")
    sigmas = time_shift(shift, torch.arange(1, n + 1, dtype=torch.float32) / n)
    at = _between(lambda percent: time_shift(shift, 1 - percent), 1.0)

    def sigma(t: Tensor) -> Sigma:
        return time_shift(shift, t.float() / multiplier).double()

    return Levels(sigmas, lambda sigma: sigma * multiplier, sigma, at)


def time_shift(shift: float, u: Time) -> Time:
    """Φ(u) = s u/(1 + (s − 1) u), of a number or in the precision of a tensor."""
    return shift * u / (1 + (shift - 1) * u)


def flux(mu: float = 1.15) -> Levels:
    """Noise levels of Flux: Ψ(u) = e^μ/(e^μ + 1/u − 1), which is `shifted_flow`'s Φ with s = e^μ; t = σ."""
    sigmas = flux_shift(mu, torch.arange(1, 10001, dtype=torch.float32) / 10000)
    at = _between(lambda percent: math.exp(mu) / (math.exp(mu) + 1 / (1 - percent) - 1), 1.0)
    return Levels(sigmas, lambda sigma: sigma.clone(), lambda t: flux_shift(mu, t.float()).double(), at)


def flux_shift(mu: float, u: Tensor) -> Tensor:
    """Ψ_μ(u) in u's own precision: for some μ float32 rounds it to 0.99999994 at u = 1, as in the reference."""
    return math.exp(mu) / (math.exp(mu) + (1 / u - 1))


def resolution_shift(tokens: float, low: tuple[float, float], high: tuple[float, float]) -> float:
    """μ on the line through two points (tokens, μ): larger images need more noise. arXiv:2403.03206 §5.3.2.

    Args:
        tokens: Number of tokens of the image.
        low: First point.
        high: Second point.
    """
    slope = (high[1] - low[1]) / (high[0] - low[0])
    return slope * tokens + (low[1] - slope * low[0])


def cascade(shift: float = 1.0) -> Levels:
    """Noise levels of Stable Cascade: a cosine ᾱ(t) for t in (0, 1], its log-SNR lowered by 2 ln(shift).

    ᾱ is clamped to [0.0001, 0.9999]. timestep does not undo the shift. arXiv:2306.00637, arXiv:2102.09672.

    Args:
        shift: Factor by which the signal-to-noise amplitude is divided.
    """
    s = 0.008
    first = torch.cos(torch.tensor(s) / (1 + s) * math.pi / 2) ** 2

    def sigma(t: Tensor) -> Sigma:
        bar = torch.cos((t.float() + s) / (1 + s) * math.pi / 2).clamp(-1, 1) ** 2 / first
        if shift != 1:
            bar = torch.sigmoid((bar / (1 - bar)).log() + 2 * math.log(1 / shift))
        bar = bar.clamp(0.0001, 0.9999)
        return ((1 - bar) / bar).sqrt().double()

    def timestep(sigma: Sigma) -> Tensor:
        v = (1 / (sigma.float() ** 2 + 1)).clamp(0, 1)
        return (torch.acos((v * first).sqrt()) / (math.pi / 2) * (1 + s) - s).double()

    table = sigma(torch.arange(1, 10001, dtype=torch.float32) / 10000).float()
    return Levels(table, timestep, sigma, _between(lambda p: float(sigma(torch.tensor(1 - p))), BEGINNING))
