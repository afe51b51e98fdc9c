"""The solution of a model's ODE that runs are compared with: in closed form, or by a fourth-order method."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.grid import Grid
from sigmafield.core.process import Flow
from sigmafield.core.protocols import Ctx
from sigmafield.lab.bench import Bench, Opened
from sigmafield.lab.convergence import runge_kutta
from sigmafield.recipes.recipe import Recipe

STEPS = {True: 400, False: 48}
"""Steps of the reference of an analytic model, and of a network, whose calls are expensive."""


def solution(bench: Bench, opened: Opened, sigmas: Tensor) -> list[Latent]:
    """x of the ODE's solution at each level after the first, from the start of a recipe at the first one.

    It is in closed form for one Gaussian; otherwise the classical Runge–Kutta method of fourth order for y = x/σ,
    dy/dλ = e^λ D, with its steps equal in λ between the levels. A bench keeps it for recipes that differ in their
    sampler alone.

    Args:
        bench: The bench that opened the recipe.
        opened: The recipe.
        sigmas: Levels [n + 1] above 0.
    """
    key = ("solution", _identity(opened.recipe), tuple(sigmas.tolist()))
    return bench.kept(key, lambda: _solved(opened, sigmas))


def end_of(bench: Bench, opened: Opened, first: float, last: float) -> Latent:
    """x of the ODE's solution at the level `last`, from the start of a recipe at the level `first`."""
    return solution(bench, opened, torch.tensor([first, last], dtype=torch.float64))[-1]


def _identity(recipe: Recipe) -> str:
    return replace(recipe, sampler="euler", schedule=None, steps=1, start_step=None, last_step=None).to_json()


@torch.no_grad()
def _solved(opened: Opened, sigmas: Tensor) -> list[Latent]:
    law, x = opened.law, opened.process.start(sigmas[0], opened.noise, opened.source)
    if law is not None and len(law.means) == 1 and (opened.recipe.cfg or 1.0) == 1.0:
        return [law.exact(x, sigmas[0], sigma) for sigma in sigmas[1:]]
    found: list[Latent] = []
    whole, steps = _length(opened, sigmas[0], sigmas[-1]), STEPS[law is not None]
    for begin, end in itertools.pairwise(sigmas):
        n = max(1, round(steps * _length(opened, begin, end) / whole))
        x = carried(opened, x, begin, end, n)
        found.append(x)
    return found


@torch.no_grad()
def carried(opened: Opened, x: Latent, begin: Tensor, end: Tensor, steps: int) -> Latent:
    """x at a level, carried along the ODE to a lower one above 0 by the fourth-order Runge–Kutta method.

    Args:
        opened: The model.
        x: Noisy latent at `begin`.
        begin: Level that it is at.
        end: Level that is wanted.
        steps: Steps of the method, four evaluations each.
    """
    process = opened.process
    start = begin.clamp(max=process.first) if isinstance(process, Flow) else begin
    ctx = Ctx(Grid(torch.stack([begin, end]), process, clock=opened.sampling.clock).span(0), {})

    def slope(y: Tensor, lam: Tensor) -> Tensor:
        sigma = process.sigma(lam)
        return lam.exp() * opened.denoise((y * sigma).to(x), sigma, ctx).x0.double()

    lams = torch.linspace(float(process.lam(start)), float(process.lam(end)), steps + 1, dtype=torch.float64)
    y = runge_kutta(slope, x.double() / begin, lams)
    return (y * end).to(x)


@torch.no_grad()
def cleaned(opened: Opened, x: Latent, sigma: Tensor) -> Latent:
    """The prediction of the clean latent at a level, which is what a run's last step to 0 gives."""
    span = Grid(torch.stack([sigma, torch.zeros_like(sigma)]), opened.process, clock=opened.sampling.clock).span(0)
    return opened.denoise(x, sigma, Ctx(span, {})).x0


def _length(opened: Opened, begin: Tensor, end: Tensor) -> float:
    """Length in λ between two levels."""
    first = begin.clamp(max=opened.process.first) if isinstance(opened.process, Flow) else begin
    return float(opened.process.lam(end) - opened.process.lam(first))


def rms(difference: Tensor) -> float:
    """Root of the mean square."""
    return float(difference.double().square().mean().sqrt())
