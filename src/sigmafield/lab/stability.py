"""Stability: the linear denoisers for which a sampler's steps damp what they should damp.

The test equation is the ODE of VE in λ with a linear denoiser,

    dx/dλ = −x + D(x),   D(x) = (1 + μ) x,   so that x ∝ e^(μλ): it decays for Re μ < 0,

and z = h μ for steps h in λ. An exact denoiser has μ ≥ −1, because dD/dx is a covariance over σ², and a Gaussian's has
−1 ≤ μ ≤ 0. Guidance multiplies differences of predictions and can take μ below −1. Exponential samplers treat −x
exactly and are exact for μ = −1, so their regions depend on h; for h → 0 they are the regions of the textbooks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.grid import Grid
from sigmafield.core.process import VE, Span
from sigmafield.core.protocols import Ctx, Pred, State
from sigmafield.parameterization.timesteps import betas, discrete
from sigmafield.runs.run import Run
from sigmafield.samplers import SAMPLERS

STEPS = 16
"""Steps of the probed run; its middle step is analysed, where histories are full and the ends are far."""

STEP = 0.3
"""Default h; for comparison, 20 steps of equal h between σ = 14.6 and 0.03 have h = 0.31."""


@dataclass(frozen=True)
class Rotation:
    """D(x) = g x, with the two channels of x as real and imaginary part.

    Args:
        g: Complex factor [2, height, width] with the same two channels.
    """

    g: Tensor

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        (a, b), (re, im) = x.unbind(1), self.g
        D = torch.stack([re * a - im * b, re * b + im * a], 1)
        return Pred(D, D, D)


@dataclass(frozen=True)
class Still:
    """Noise that is 0, so that x is its mean.

    Args:
        like: Tensor whose shape and dtype the noise has.
    """

    like: Tensor

    def __call__(self, span: Span) -> Latent:
        return torch.zeros_like(self.like)

    def get_state(self) -> None:
        """None: there is no state."""
        return None

    def set_state(self, state: Tensor | None) -> None:
        """Does nothing."""


def amplification(sampler: str, z: Tensor, h: float = STEP, /, **params: Any) -> Tensor:
    """Spectral radius of one step as a linear map of (x, memory); the step is stable where it is ≤ 1.

    For a stochastic sampler it is the map of the mean. Where the coefficients of a sampler change along a run of equal
    steps (`deis`, `heunpp2`, `er_sde`, and `uni_pc` by rounding), it is the map of the middle one of 16 steps, around σ
    = 1. `dpm_fast` makes one step of about three; there h, and with it z, is that of the larger step.

    Args:
        sampler: Name of the sampler.
        z: h μ, complex or real, any shape.
        h: Length of every step in λ, above 0.
        **params: Parameters of the sampler.

    Returns:
        float64 of z's shape.

    Raises:
        ValueError: If the sampler or a parameter is unknown, the sampler is not linear, h ≤ 0 or z is not finite.
    """
    if not SAMPLERS.lookup(sampler).linear:
        raise ValueError(f"{sampler} is not linear in x and its predictions: it has no region of stability")
    if not h > 0:
        raise ValueError(f"h must be above 0; got {h}")
    if not torch.isfinite(z).all():
        raise ValueError("z must be finite")
    flat = z.detach().to(torch.complex128).reshape(1, -1)
    run = _run(sampler, flat, h, 0, params)
    state = _state(run, flat.shape)
    radii = np.abs(np.linalg.eigvals(_matrix(run, state, _scales(sampler, h, params)).numpy())).max(-1)
    return torch.from_numpy(radii).reshape(z.shape)


def real_interval(sampler: str, h: float = STEP, /, *, limit: float = 40.0, **params: Any) -> float:
    """The largest r ≤ limit for which all real −r ≤ z ≤ 0 are stable, to 1e-6; 0 if no r is.

    A radius up to 1 + 1e-6 counts as stable.

    Args:
        sampler: Name of the sampler.
        h: Length of every step in λ, above 0.
        limit: Largest r that is tried; returned if everything up to it is stable.
        **params: Parameters of the sampler.
    """
    low, high = 0.0, limit
    while high - low > 1e-6:
        r = torch.linspace(low, high, 401, dtype=torch.float64)
        unstable = (amplification(sampler, -r, h, **params) > 1 + 1e-6).nonzero()
        if not len(unstable):
            return high
        k = int(unstable[0])
        if k == 0:
            return low
        low, high = float(r[k - 1]), float(r[k])
    return low


def _run(sampler: str, z: Tensor, h: float, later: int, params: dict[str, Any]) -> Run:
    """A run whose denoiser has μ = z/h, h being that of the sampler's own grid.

    Args:
        sampler: Name of the sampler.
        z: h μ [1, points], complex.
        h: Length of every step in λ.
        later: Number of steps by which the run is moved in λ.
        params: Parameters of the sampler.
    """
    lam = h * (torch.arange(STEPS + 1, dtype=torch.float64) - STEPS / 2 + later)
    still = Still(torch.zeros(1, 2, *z.shape, dtype=torch.float64))
    grid = Grid(VE().sigma(lam), VE(), clock=discrete(betas()).sigma_at)
    run = Run(Rotation(torch.zeros(2, *z.shape)), SAMPLERS.lookup(sampler), grid, still, params)
    g = 1 + z / float(run.span(run.grid.n // 2).ve.h)
    return replace(run, denoise=Rotation(torch.view_as_real(g).movedim(-1, 0)))


def _state(run: Run, shape: tuple[int, ...]) -> State:
    """The middle of a run whose x are set to 1, 2, 3 …, so that remembered D, slopes and differences are not 0."""
    one = torch.zeros(1, 2, *shape, dtype=torch.float64)
    one[:, 0] = 1
    state = run.start(one)
    for k in range(run.grid.n // 2):
        state = replace(run.step(state), x=(k + 2) * one)
    return state


def _latents(state: State) -> dict[str, Tensor]:
    """x and the latents in the memory: everything that a step is linear in."""
    return {"": state.x} | {
        name: v for name, v in state.mem.items() if isinstance(v, Tensor) and v.shape[1:] == state.x.shape[1:]
    }


def _scales(sampler: str, h: float, params: dict[str, Any]) -> list[float]:
    """Factor by which the weight of each latent changes when it is carried one step on; 1 for x itself.

    Slopes (x − D)/σ grow by e^h where σ falls by e^(−h) and x stays the same. The factors are measured by giving the
    same x to the run and to a run at levels one step lower. Any μ for which no memory vanishes would do, here −½.
    """
    z = torch.full((1, 1), -h / 2, dtype=torch.complex128)
    now, then = (_latents(_state(_run(sampler, z, h, later, params), z.shape)).values() for later in (0, 1))
    return [float(b.abs().max() / a.abs().max()) if a.any() else 1.0 for a, b in zip(now, then)]  # 0: noise


def _matrix(run: Run, state: State, scales: list[float]) -> Tensor:
    """The step's matrix [points, latents, latents], complex: column k is what a unit in latent k becomes."""
    latents = _latents(state)
    unit = torch.eye(len(latents), dtype=torch.float64)[:, :, None, None, None]  # axes: latent, batch, channel, y, x
    parts = {
        name: torch.cat([unit[k], torch.zeros_like(unit[k])], 1).expand(-1, -1, *state.x.shape[2:])
        for k, name in enumerate(latents)
    }
    start = replace(state, x=parts.pop(""), mem={**state.mem, **parts})
    noise = Still(torch.zeros_like(start.x))
    after = _latents(replace(run, noise=noise).step(start))
    rows = [torch.complex(*after[name].unbind(1)).flatten(1) / scale for name, scale in zip(latents, scales)]
    return torch.stack(rows).permute(2, 0, 1)  # (row, column, point) → (point, row, column)
