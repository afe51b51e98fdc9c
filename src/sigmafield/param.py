"""What a network predicts and which noise levels it knows: F(c_in x, t) → D, and σ ↔ t ↔ percent.

A network's `Sampling` joins three independent choices: the prediction (`eps`, `v`, `flow`), the table of
noise levels (`discrete`, `shifted_flow`) and, following from the prediction, the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sigmafield.grid import VE, Flow, Process
from sigmafield.types import Sigma


class Preconditioning(NamedTuple):
    """D = c_skip x + c_out F(c_in x, t): Karras et al., arXiv:2206.00364, eq. 7. Shapes of σ."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor


Prediction = Callable[[Sigma], Preconditioning]


def eps(sigma: Sigma) -> Preconditioning:
    """The network predicts the noise: D = x − σ F(x/√(σ² + 1))."""
    return Preconditioning((sigma**2 + 1).rsqrt(), torch.ones_like(sigma), -sigma)


def v(sigma: Sigma) -> Preconditioning:
    """The network predicts velocity: D = x/(σ² + 1) − F(x/√(σ² + 1)) σ/√(σ² + 1). arXiv:2202.00512."""
    scale = (sigma**2 + 1).rsqrt()
    return Preconditioning(scale, scale**2, -sigma * scale)


def flow(sigma: Sigma) -> Preconditioning:
    """The network predicts ξ − x0 of a rectified flow: D = x − σ F(x). arXiv:2209.03003."""
    return Preconditioning(torch.ones_like(sigma), torch.ones_like(sigma), -sigma)


PREDICTIONS: dict[str, Prediction] = {"eps": eps, "v": v, "flow": flow}


@dataclass(frozen=True)
class Levels:
    """The noise levels that a network was trained on, and its clock.

    sigmas: ascending float32 table [N]; timestep(σ): what the network is told, float64 of σ's shape;
    sigma(t): its counterpart for tensors t, the float32 values of the reference in float64;
    sigma_at(percent): 0 = start of sampling (most noise), 1 = end.
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


@dataclass(frozen=True)
class Sampling:
    """A network's prediction, noise levels and process."""

    prediction: Prediction
    levels: Levels
    process: Process


def betas(schedule: str = "scaled_linear", start: float = 0.00085, end: float = 0.012, n: int = 1000) -> np.ndarray:
    """Variances β of a DDPM, float64 [n].

    scaled_linear: linear in √β (Stable Diffusion); linear: linear in β; squaredcos_cap_v2: from a squared
    cosine ᾱ, capped at 0.999. Names are diffusers'. Raises ValueError for another name.
    """
    if schedule == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, n) ** 2
    if schedule == "linear":
        return np.linspace(start, end, n)
    if schedule == "squaredcos_cap_v2":
        bar = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    raise ValueError(f"unknown beta schedule {schedule!r}; known: scaled_linear, linear, squaredcos_cap_v2")


def discrete(beta: np.ndarray, zsnr: bool = False) -> Levels:
    """Noise levels of a DDPM with variances β: σ² = (1 − ᾱ)/ᾱ; t is the index of the nearest level in ln σ.

    zsnr: rescale so that the last level is pure noise, arXiv:2305.08891.
    """
    bar = np.cumprod(1 - beta)
    if zsnr:
        root = np.sqrt(bar)
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        bar = root**2
        bar[-1] = 4.8973451890853435e-08  # keeps the last level finite, as the reference does
    exact = torch.from_numpy(np.sqrt((1 - bar) / bar))
    sigmas, logs = exact.float(), exact.log().float()

    def timestep(sigma: Sigma) -> Tensor:
        nearest = (sigma.float().log().reshape(-1, 1) - logs).abs().argmin(dim=1)
        return nearest.reshape(sigma.shape).double()

    def sigma(t: Tensor) -> Sigma:
        t = t.float().clamp(0, len(sigmas) - 1)
        low, high, w = t.floor().long(), t.ceil().long(), t.frac()
        return ((1 - w) * logs[low] + w * logs[high]).exp().double()

    def sigma_at(percent: float) -> float:
        if percent <= 0:
            return 999999999.9
        return 0.0 if percent >= 1 else float(sigma(torch.tensor((1 - percent) * 999.0)))

    return Levels(sigmas, timestep, sigma, sigma_at)


def shifted_flow(shift: float = 1.0, multiplier: float = 1000.0, n: int = 1000) -> Levels:
    """Noise levels of a rectified flow under the time shift Φ(u) = s u/(1 + (s − 1) u); t = multiplier · σ.

    timestep and sigma are not inverse for s ≠ 1: schedules that go through both shift twice, as in ComfyUI.
    """

    def phi(u):
        return shift * u / (1 + (shift - 1) * u)

    def sigma_at(percent: float) -> float:
        if percent <= 0:
            return 1.0
        return 0.0 if percent >= 1 else phi(1 - percent)

    sigmas = phi(torch.arange(1, n + 1, dtype=torch.float32) / n)
    return Levels(sigmas, lambda sigma: sigma * multiplier, lambda t: phi(t.float() / multiplier).double(), sigma_at)


def discrete_sampling(prediction: str, beta: np.ndarray, zsnr: bool = False) -> Sampling:
    """Sampling of a DDPM-type network (Stable Diffusion 1, 2, XL) that predicts 'eps' or 'v'."""
    levels = discrete(beta, zsnr)
    return Sampling(PREDICTIONS[prediction], levels, VE(levels.sigma_max))


def flow_sampling(shift: float = 3.0, multiplier: float = 1000.0) -> Sampling:
    """Sampling of a rectified-flow network (Stable Diffusion 3 by default)."""
    return Sampling(flow, shifted_flow(shift, multiplier), Flow(shift))
