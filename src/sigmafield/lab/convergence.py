"""Order of convergence: how fast the error of a run falls as its steps get shorter, on exact denoisers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.grid import Grid
from sigmafield.core.process import VE, Process
from sigmafield.core.protocols import Ctx, Denoiser, Pred
from sigmafield.models.analytic import Mixture
from sigmafield.runs.run import Run, finish
from sigmafield.samplers import SAMPLERS
from sigmafield.samplers.er_sde import ode

LOW, HIGH = -2.0, 2.5
"""λ at the beginning and at the end of every run."""

START = torch.linspace(-8, 8, 32, dtype=torch.float64).reshape(1, 1, 4, 8)
"""The x that every run begins with."""

REFERENCE_STEPS = 500


@dataclass(frozen=True)
class Convergence:
    """Errors of one sampler at several numbers of steps.

    Args:
        sampler: Name of the sampler.
        process: Process of the runs.
        steps: Number of steps of each run.
        nfe: Number of evaluations of each run.
        errors: Rms distance of x to the solution at the end of each run.
    """

    sampler: str
    process: Process
    steps: tuple[int, ...]
    nfe: tuple[int, ...]
    errors: tuple[float, ...]

    @property
    def slope(self) -> float:
        """Observed order: −Δ ln error/Δ ln steps between the two longest runs."""
        return math.log(self.errors[-2] / self.errors[-1]) / math.log(self.steps[-1] / self.steps[-2])


def convergence(
    sampler: str,
    process: Process = VE(),
    steps: Sequence[int] = (8, 16, 32, 64, 128),
    *,
    model: Mixture | None = None,
    **params: Any,
) -> Convergence:
    """Errors of runs without noise over `uneven` schedules.

    Args:
        sampler: Name of the sampler.
        process: Process of the runs.
        steps: Numbers of steps: two or more even numbers, ascending.
        model: Exact denoiser of `process`; by default a mixture of three Gaussians.
        **params: Parameters of the sampler, in addition to `without_noise`.

    Raises:
        ValueError: If the sampler is unknown or has no ODE, the steps do not fit, or the model is of another process.
    """
    if len(steps) < 2 or any(n < 2 or n % 2 for n in steps) or list(steps) != sorted(set(steps)):
        raise ValueError(f"steps must be two or more even numbers, ascending; got {tuple(steps)}")
    model = model or Mixture(process=process)
    if model.process != process:
        raise ValueError(f"model is of another process: {model.process} instead of {process}")
    chosen, exact = SAMPLERS.lookup(sampler), solution(model)
    params = without_noise(sampler) | params
    last = [
        finish(run := Run(alone(model), chosen, uneven(process, n), params=params), run.start(START)) for n in steps
    ]
    errors = tuple(float((state.x - exact).square().mean().sqrt()) for state in last)
    return Convergence(sampler, process, tuple(steps), tuple(state.nfe for state in last), errors)


def without_noise(sampler: str) -> dict[str, Any]:
    """Parameters that make a sampler a solver of the ODE; ValueError if its noise cannot be turned off."""
    chosen = SAMPLERS.lookup(sampler)
    if chosen.noise in ("none", "churn"):
        return {}
    if "eta" in chosen.defaults:
        return {"eta": 0.0}
    if "noise_scaler" in chosen.defaults:
        return {"s_noise": 0.0, "noise_scaler": ode}
    raise ValueError(f"{sampler} has no parameter that turns its noise off: it has no ODE to converge to")


def uneven(process: Process, n: int) -> Grid:
    """n steps between λ = −2 and 2.5 with lengths that alternate 1 : 2, so that wrong weights cannot cancel.

    Args:
        process: Process of the run.
        n: Number of steps, even.
    """
    step = torch.tensor([1.0, 2.0], dtype=torch.float64).repeat(n // 2)
    along = torch.cat([torch.zeros(1, dtype=torch.float64), step.cumsum(0) / step.sum()])
    return Grid(process.sigma(LOW + (HIGH - LOW) * along), process)


def alone(model: Callable[[Latent, Sigma], Pred]) -> Denoiser:
    """A denoiser that answers with the model's prediction without guidance, also where U is requested."""

    def denoise(x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        D = model(x, sigma).x0
        return Pred(D, D, D)

    return denoise


@cache
def solution(model: Mixture) -> Tensor:
    """x at λ = 2.5 of the solution of the ODE that starts from `START` at λ = −2.

    It is in closed form for one Gaussian; otherwise it is computed with 500 steps of the classical fourth-order
    Runge–Kutta method for y = x/σ, dy/dλ = e^λ D.
    """
    process = model.process
    lam = torch.linspace(LOW, HIGH, REFERENCE_STEPS + 1, dtype=torch.float64)
    sigma = process.sigma(lam)
    if len(model.means) == 1:
        return model.exact(START, sigma[0], sigma[-1])

    def slope(y: Tensor, t: Tensor) -> Tensor:
        sigma = process.sigma(t)
        return t.exp() * model(y * sigma, sigma).x0

    return runge_kutta(slope, START / sigma[0], lam) * sigma[-1]


def runge_kutta(slope: Callable[[Tensor, Tensor], Tensor], y: Tensor, times: Tensor) -> Tensor:
    """y at the last time, by a step of the classical fourth-order Runge–Kutta method between each two times.

    Args:
        slope: dy/dt at y and t.
        y: Value at the first time.
        times: The times [steps + 1].
    """
    for t, u in itertools.pairwise(times):
        h = u - t
        k1 = slope(y, t)
        k2 = slope(y + h / 2 * k1, t + h / 2)
        k3 = slope(y + h / 2 * k2, t + h / 2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3, u))
    return y
