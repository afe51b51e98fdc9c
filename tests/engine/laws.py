"""What the law tests share: schedules, processes, coefficient rows read off a method by unit vectors."""

from dataclasses import dataclass

import torch

from sigmafield.grid import VE, Flow, Grid, Span
from sigmafield.methods import METHODS, lookup
from sigmafield.models.analytic import Mixture
from sigmafield.run import Run, default_noise
from sigmafield.schedules import karras
from sigmafield.types import Pred

LINEAR = [name for name, method in METHODS.items() if method.linear]
# churn adds noise only when asked to: the laws of stochastic methods hold for these parameters too
CHURN = {"s_churn": 4.0}


def grid(process, n=8, low=0.03):
    """A schedule that ends at 0: Karras for VE, a shifted line for a flow."""
    if isinstance(process, VE):
        return Grid(karras(n, low, 14.6), process)
    u = torch.linspace(1, 0, n + 1, dtype=torch.float64)
    return Grid(3 * u / (1 + 2 * u), process)


PROCESSES = [VE(), Flow(3.0)]


@dataclass(frozen=True)
class Row:
    """x' = a x₀ + Σ d_j D_j + Σ c_k ξ_k after a step, in everything that has entered the run so far."""

    span: Span
    a: float
    D: list[float]
    xi: list[float]


class Probe:
    """A denoiser and a noise source that answer every request with a fresh unit vector."""

    def __init__(self, size=256):
        self.size, self.kinds = size, ["x"]
        self.x = self._unit()

    def _unit(self):
        return torch.eye(self.size, dtype=torch.float64)[len(self.kinds) - 1].reshape(1, 1, 1, -1)

    def _fresh(self, kind):
        self.kinds.append(kind)
        return self._unit()

    def denoise(self, x, sigma, ctx):
        return Pred(self._fresh("D"), self._fresh("C"), self._fresh("U"))

    def __call__(self, span):
        return self._fresh("xi")

    def get_state(self):
        return None

    def set_state(self, state):
        pass


def table(name, grid, **params):
    """Coefficient rows of a method over a schedule, one a step; needs no model."""
    probe = Probe()
    run = Run(probe.denoise, lookup(name), grid, probe, params)
    state, rows = run.start(probe.x), []
    while not run.done(state):
        span = run.span(state.i)
        state = run.step(state)
        c = state.x.flatten().tolist()
        pick = {kind: [v for v, k in zip(c, probe.kinds) if k == kind] for kind in ("D", "U", "xi")}
        rows.append(Row(span, c[0], [d + u for d, u in zip(pick["D"], pick["U"])], pick["xi"]))
    return rows


@dataclass(frozen=True)
class Guided:
    """An exact denoiser with an unconditional answer beside the guided one."""

    model: Mixture
    other: Mixture

    def __call__(self, x, sigma, ctx):
        D = self.model(x, sigma).x0
        return Pred(D, D, self.other(x, sigma).x0)


def guided(process):
    """The mixture, guided away from a mixture with other weights."""
    return Guided(Mixture(process=process), Mixture(weights=(0.4, 0.3, 0.3), process=process))


def run_of(name, denoise, grid, x, **params):
    """A run with the noise that the method would get by default, seeded with 7."""
    return Run(denoise, lookup(name), grid, default_noise(lookup(name), 7, grid, x), params)
