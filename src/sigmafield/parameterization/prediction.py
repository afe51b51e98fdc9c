"""What a network predicts: F(c_in x, t) → D; together with its noise levels and its process it makes up a `Sampling`.

The three are independent choices, so a family of models is three short names (see `families`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sigmafield.core.arrays import Sigma
from sigmafield.core.process import VE, Clock, Flow, Process
from sigmafield.core.registry import near_miss
from sigmafield.parameterization.timesteps import (
    Levels,
    cascade,
    continuous_edm,
    continuous_v,
    cosmos,
    discrete,
    distilled,
    flux,
    shifted_flow,
)


class Preconditioning(NamedTuple):
    """Coefficients of D = c_skip x + c_out F(c_in x, t), of σ's shape: Karras et al., arXiv:2206.00364, eq. 7."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor


Prediction = Callable[[Sigma], Preconditioning]


def eps(sigma: Sigma) -> Preconditioning:
    """The network predicts the noise: D = x − σ F(x/√(σ² + 1))."""
    return Preconditioning((sigma**2 + 1).rsqrt(), torch.ones_like(sigma), -sigma)


def v(sigma: Sigma, sigma_data: float = 1.0) -> Preconditioning:
    """The network predicts the velocity: D = c² x − F(x s) c σ, s = 1/√(σ² + d²), c = d s, d = σ_data.

    arXiv:2202.00512.
    """
    scale = (sigma**2 + sigma_data**2).rsqrt()
    return Preconditioning(scale, (sigma_data * scale) ** 2, -sigma * sigma_data * scale)


def edm(sigma: Sigma, sigma_data: float = 0.5) -> Preconditioning:
    """Like `v` with the opposite sign of F. Karras et al., arXiv:2206.00364, table 1."""
    c_in, c_skip, c_out = v(sigma, sigma_data)
    return Preconditioning(c_in, c_skip, -c_out)


def x0(sigma: Sigma) -> Preconditioning:
    """The network predicts the clean latent: D = F(x/√(σ² + 1))."""
    return Preconditioning((sigma**2 + 1).rsqrt(), torch.zeros_like(sigma), torch.ones_like(sigma))


def img_to_img(sigma: Sigma) -> Preconditioning:
    """The network maps latents to latents, and its input is not scaled with the noise level: D = F(x)."""
    return Preconditioning(torch.ones_like(sigma), torch.zeros_like(sigma), torch.ones_like(sigma))


def flow(sigma: Sigma) -> Preconditioning:
    """The network predicts ξ − x0 of a rectified flow: D = x − σ F(x). arXiv:2209.03003."""
    return Preconditioning(torch.ones_like(sigma), torch.ones_like(sigma), -sigma)


def cosmos_rflow(sigma: Sigma) -> Preconditioning:
    """A rectified flow written as a variance-exploding process: D = (1 − s) x − s F((1 − s) x), s = σ/(1 + σ)."""
    keep = 1 / (1 + sigma)
    return Preconditioning(keep, keep, -sigma * keep)


def lcm(sigma: Sigma, timestep: Callable[[Sigma], Tensor]) -> Preconditioning:
    """Boundary condition of a latent consistency model over `eps`: D = c_skip x + c_out (x − σ F).

        τ = 10 t(σ),   c_skip = ¼/(τ² + ¼),   c_out = τ/√(τ² + ¼)

    Luo et al., arXiv:2310.04378.

    Args:
        sigma: Noise level.
        timestep: The network's clock t(σ).
    """
    scaled = 10 * timestep(sigma)
    c_skip, c_out = 0.25 / (scaled**2 + 0.25), scaled * (scaled**2 + 0.25).rsqrt()
    return Preconditioning((sigma**2 + 1).rsqrt(), c_skip + c_out, -sigma * c_out)


PREDICTIONS: dict[str, Prediction] = {"eps": eps, "v": v, "edm": edm, "x0": x0, "img_to_img": img_to_img, "flow": flow}


@dataclass(frozen=True)
class Sampling:
    """A network's prediction, noise levels and process.

    Args:
        prediction: Preconditioning as a function of σ.
        levels: Noise levels that the network knows, and its clock.
        process: Process that adds noise.
        beta: Variances that discrete levels were made from; None for other levels.
    """

    prediction: Prediction
    levels: Levels
    process: Process
    beta: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def clock(self) -> Clock:
        """Share of the way through sampling → σ."""
        return self.levels.sigma_at


def _exploding(prediction: Prediction, levels: Levels, beta: np.ndarray | None = None) -> Sampling:
    return Sampling(prediction, levels, VE(levels.sigma_max), beta)


def _predicts(name: str, *allowed: str) -> Prediction:
    if name not in allowed:
        raise ValueError(f"unknown prediction {name!r}{near_miss(name, allowed)}")
    return PREDICTIONS[name]


def discrete_sampling(prediction: str, beta: np.ndarray, zsnr: bool = False) -> Sampling:
    """Sampling of a DDPM-type network (Stable Diffusion 1, 2, XL) with variances β.

    Args:
        prediction: eps, v, x0, img_to_img; or lcm for a latent consistency model with its 50 levels.
        beta: Variances β of the training steps.
        zsnr: Whether to rescale the levels so that the last one is pure noise, see `discrete`.

    Raises:
        ValueError: If the prediction is unknown.
    """
    if prediction == "lcm":
        levels = distilled(beta, zsnr)
        return _exploding(partial(lcm, timestep=levels.timestep), levels, beta)
    return _exploding(_predicts(prediction, "eps", "v", "x0", "img_to_img"), discrete(beta, zsnr), beta)


def continuous_edm_sampling(
    prediction: str, sigma_min: float = 0.002, sigma_max: float = 120.0, sigma_data: float = 1.0
) -> Sampling:
    """Sampling of a network with EDM's clock (Playground 2.5: edm with σ_data = 0.5, SVD: v).

    Args:
        prediction: eps, v or edm.
        sigma_min: Smallest level.
        sigma_max: Largest level.
        sigma_data: Standard deviation of the data; not used by eps.

    Raises:
        ValueError: If the prediction is unknown.
    """
    scaled = {"v": partial(v, sigma_data=sigma_data), "edm": partial(edm, sigma_data=sigma_data)}
    chosen = scaled.get(prediction) or _predicts(prediction, "eps", *scaled)
    return _exploding(chosen, continuous_edm(sigma_min, sigma_max))


def continuous_v_sampling(sigma_min: float = 0.03, sigma_max: float = 500.0) -> Sampling:
    """Sampling of a v-prediction network with the arctangent clock (Stable Audio)."""
    return _exploding(v, continuous_v(sigma_min, sigma_max))


def cascade_sampling(shift: float = 2.0) -> Sampling:
    """Sampling of Stable Cascade.

    Args:
        shift: 2 for its stage C, 1 for stage B.
    """
    return _exploding(eps, cascade(shift))


def cosmos_sampling(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Sampling:
    """Sampling of Cosmos Predict 2. Its initial noise is never scaled up to √(1 + σ²)."""
    levels = cosmos(sigma_min, sigma_max)
    return Sampling(cosmos_rflow, levels, VE())


def flow_sampling(shift: float = 3.0, multiplier: float = 1000.0, n: int = 1000) -> Sampling:
    """Sampling of a rectified-flow network (by default Stable Diffusion 3).

    Args:
        shift: Time shift s.
        multiplier: Timestep at σ = 1.
        n: Number of levels in its table.
    """
    return Sampling(flow, shifted_flow(shift, multiplier, n), Flow(shift))


def flux_sampling(mu: float = 1.15) -> Sampling:
    """Sampling of a Flux-type network.

    Args:
        mu: Time shift μ = ln s; `timesteps.resolution_shift` gives it for a size.
    """
    return Sampling(flow, flux(mu), Flow(float(np.exp(mu))))


def shifted(sampling: Sampling, shift: float) -> Sampling:
    """A rectified flow's sampling with another time shift.

    Args:
        sampling: Sampling of a rectified flow.
        shift: Time shift s (e^μ for Flux).

    Raises:
        ValueError: If the process is not a flow.
    """
    if not isinstance(sampling.process, Flow):
        raise ValueError("shift is for networks of rectified flow; this one's noise levels have no time shift")
    multiplier = float(sampling.levels.timestep(torch.ones((), dtype=torch.float64)))
    return flow_sampling(shift, multiplier, len(sampling.levels.sigmas))
