"""The solution of a model's ODE that runs are compared with: in closed form, or by many steps of a fourth-order method."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.process import Flow, Grid
from sigmafield.core.protocols import Ctx
from sigmafield.lab.bench import Bench, Opened
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
    process, law = opened.process, opened.law
    x = process.start(sigmas[0], opened.noise, opened.source)
    if law is not None and len(law.means) == 1 and (opened.recipe.cfg or 1.0) == 1.0:
        return [law.exact(x, sigmas[0], sigma) for sigma in sigmas[1:]]
    start = sigmas[0].clamp(max=process.first) if isinstance(process, Flow) else sigmas[0]
    lams = process.lam(torch.cat([start.reshape(1), sigmas[1:]]))
    steps, total = STEPS[law is not None], float(lams[-1] - lams[0])
    ctx = Ctx(Grid(sigmas, process, clock=opened.sampling.clock).span(0), {})

    def slope(y: Tensor, lam: Tensor) -> Tensor:
        sigma = process.sigma(lam)
        D = opened.denoise((y * sigma).to(x), sigma, ctx).x0
        return lam.exp() * D.double()

    y, found = x.double() / sigmas[0], []
    for begin, end in itertools.pairwise(lams):
        n = max(1, round(steps * float(end - begin) / total))
        for t, u in itertools.pairwise(torch.linspace(float(begin), float(end), n + 1, dtype=torch.float64)):
            h = u - t
            k1 = slope(y, t)
            k2 = slope(y + h / 2 * k1, t + h / 2)
            k3 = slope(y + h / 2 * k2, t + h / 2)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3, u))
        found.append((y * process.sigma(end)).to(x))
    return found


def rms(difference: Tensor) -> float:
    """Root of the mean square."""
    return float(difference.double().square().mean().sqrt())
