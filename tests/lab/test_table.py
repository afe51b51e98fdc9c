"""Coefficient tables: a run equals its rows; one step in terms of its own x; refusals."""

import pytest
import torch

from sigmafield.core.grid import Grid
from sigmafield.core.linear import lincomb
from sigmafield.core.process import VE, Flow
from sigmafield.core.protocols import Pred
from sigmafield.lab import one_step, render, table
from sigmafield.lab.coefficients import terms
from sigmafield.parameterization.timesteps import betas, discrete
from sigmafield.runs.run import Run
from sigmafield.samplers import SAMPLERS, Sampler
from sigmafield.schedules import karras

GRID = Grid(karras(6, 0.03, 14.6), VE(), clock=discrete(betas()).sigma_at)


class Recorder:
    """A denoiser and noise source that returns random latents and records them."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(3)
        self.D, self.U, self.xi = [], [], []

    def draw(self):
        return torch.randn(1, 1, 2, 3, dtype=torch.float64, generator=self.generator)

    def denoise(self, x, sigma, ctx):
        self.D.append(self.draw())
        self.U.append(self.draw())
        return Pred(self.D[-1], None, self.U[-1])

    def __call__(self, span):
        self.xi.append(self.draw())
        return self.xi[-1]

    def get_state(self):
        return None

    def set_state(self, state):
        pass


SAMPLERS_OF_ALL_KINDS = [
    "euler", "heun", "lms", "dpmpp_3m_sde", "seeds_3", "uni_pc", "euler_ancestral_cfg_pp", "dpm_fast", "lcm",
]  # fmt: skip


@pytest.mark.parametrize("name", SAMPLERS_OF_ALL_KINDS)
def test_rows_are_what_a_run_does(name):
    """x after each step is the row's combination of x₀, predictions and noises; and one_step's of the step's own x."""
    rows, seen = table(name, GRID), Recorder()
    x0 = seen.draw()
    run = Run(seen.denoise, SAMPLERS.lookup(name), GRID, seen)
    state = run.start(x0)
    for i, row in enumerate(rows):
        before, state = state.x, run.step(state)
        for r, x in ((row, x0), (one_step(rows, i), before)):
            parts = [
                r.a * x,
                *(w * v for ws, vs in ((r.D, seen.D), (r.U, seen.U), (r.xi, seen.xi)) for w, v in zip(ws, vs)),
            ]
            assert torch.allclose(sum(parts), state.x, rtol=1e-9, atol=1e-12)
    assert len(rows[-1].D) == len(rows[-1].sigmas) == len(seen.D)
    assert len(rows[-1].xi) == len(seen.xi)


def test_terms_name_what_is_there():
    rows = table("dpmpp_2m_sde", GRID)
    found = terms(rows, 3)
    assert [what for what, _, _ in found] == ["x", "D₁", "D₋₁", "ξ₁"]
    assert [sigma for _, sigma, _ in found] == [None, float(GRID.sigmas[3]), float(GRID.sigmas[2]), None]
    row = one_step(rows, 3)
    assert [weight for _, _, weight in found] == [row.a, row.D[-1], row.D[-2], row.xi[-1]]
    assert [what for what, _, _ in terms(table("seeds_2", GRID, r=0.3), 0)] == ["x", "D₂", "D₁", "ξ₂", "ξ₁"]
    assert render(rows, 3).row_count == 4


def test_long_runs_fit():
    """More evaluations and noises than steps: the number of unit vectors is not fixed."""
    rows = table("seeds_3", Grid(karras(120, 0.03, 14.6), VE()))
    assert len(rows[-1].D) == 3 * 119 + 1 and len(rows[-1].xi) == 3 * 119


@pytest.mark.parametrize(
    "name, grid, params, message",
    [
        ("dpm_adaptive", GRID, {}, "dpm_adaptive is not linear in x and its predictions: it has no table"),
        ("eular", GRID, {}, "unknown sampler 'eular'; did you mean euler"),
        ("euler", GRID, {"eta": 1.0}, "euler has no parameter 'eta'"),
        ("euler", Grid(torch.ones(3, 1, 1, 2, 2), Flow()), {}, "one sigma per step; got a field"),
    ],
)
def test_refusals(name, grid, params, message):
    with pytest.raises(ValueError, match=message):
        table(name, grid, **params)


def test_a_step_may_draw_as_often_as_it_likes():
    def often(x, s, mem, noise):
        D = (yield x, s.sigma).x0
        return lincomb(1.0, x, -1.0, D, *(term for _ in range(9) for term in (0.5, noise(s)))), mem

    SAMPLERS.add(Sampler("often", often, order=1, evals=1, paper="", noise="gaussian"))
    try:
        last = table("often", GRID)[-1]
    finally:
        SAMPLERS.remove("often")
    assert (last.a, last.D, last.xi) == (1.0, [-1.0] * GRID.n, [0.5] * 9 * GRID.n)
