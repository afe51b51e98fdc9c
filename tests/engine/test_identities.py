"""Identities of the coefficients themselves, with no model: constants, marginals and the first moment."""

import math

import pytest
import torch
from laws import CHURN, LINEAR, PROCESSES, grid

from sigmafield.grid import Flow, Grid
from sigmafield.lab import one_step, table
from sigmafield.methods import METHODS

NAMES = [(name, {}) for name in LINEAR] + [
    ("euler", CHURN),
    ("heun", CHURN),
    ("dpmpp_2m_sde", {"eta": 0.4}),
    ("dpmpp_2m_sde_heun", {"eta": 0.0}),
    ("seeds_2", {"eta": 0.7, "r": 0.6, "solver": "phi_2"}),
]
# Churn is written for VE and moves x off a flow's marginals and constants, in the reference too.
CHURN_ON_FLOW = pytest.mark.xfail(strict=True, reason="churn is a VE formula, as in the reference")

# inherited from the reference, which these reproduce
ALWAYS_OFF = {
    "ipndm_v": "its coefficients do not sum to 1 on unequal steps",
    "deis": "its integrals are sums that are 1e-4 off",
    "uni_pc": "ends at 0.001, with coefficients from float32",
    "uni_pc_bh2": "ends at 0.001, with coefficients from float32",
}
VE_ON_FLOW = {"ddpm", "dpmpp_2s_ancestral_cfg_pp", "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp"}


def cases(names):
    for name, params in names:
        for process in PROCESSES:
            marks = []
            if params == CHURN and isinstance(process, Flow):
                marks = [CHURN_ON_FLOW]
            elif name in ALWAYS_OFF:
                marks = [pytest.mark.xfail(strict=True, reason=ALWAYS_OFF[name])]
            elif name in VE_ON_FLOW and isinstance(process, Flow):
                marks = [pytest.mark.xfail(strict=True, reason="VE's noise on a flow, as in the reference")]
            yield pytest.param(name, params, process, marks=marks, id=f"{name}{params}{process}")


# of lower order on two steps, with a schedule of their own, or with the predicted x as their state
NOT_IN_TWO_STEPS = {"uni_pc", "uni_pc_bh2", "dpm_fast", "sa_solver", "sa_solver_pece"}
SECOND_ORDER = [(name, {}) for name in LINEAR if METHODS[name].order >= 2 and name not in NOT_IN_TWO_STEPS]
SECOND_ORDER += [("seeds_2", {"solver": solver, "r": 0.6}) for solver in ("phi_1", "phi_2")]


@pytest.mark.parametrize("name, params, process", list(cases(NAMES)))
def test_constants_and_marginals(name, params, process):
    """A network that always answers the same x0 gives α' x0, and the noise that is left has variance σ'²."""
    g = grid(process)
    for row in table(name, g, **params):
        s, s0 = row.span, table_start(name, g)
        alpha0, alpha = float(process.alpha(s0)), float(process.alpha(s.sigma_next))
        assert row.a * alpha0 + sum(row.D) + sum(row.U) == pytest.approx(alpha, abs=1e-12)
        kept = row.a**2 * float(s0) ** 2 + sum(c * c for c in row.xi)
        assert kept == pytest.approx(float(s.sigma_next) ** 2, rel=1e-11, abs=1e-20)


def table_start(name, g):
    regrid = METHODS[name].grid
    return (regrid(g, METHODS[name].defaults) if regrid else g).sigmas[0]


@pytest.mark.parametrize("h_prev", [2.0, 0.5])
@pytest.mark.parametrize("process", PROCESSES, ids=str)
@pytest.mark.parametrize("name, params", SECOND_ORDER, ids=str)
def test_first_moment(name, params, process, h_prev):
    """Σ ℓ_j (λ_j − λ) = α' (h − (1 − e^(−h))) + O(h³) over a step with history at h₋ = 2h and h/2, η = 0."""
    params = params | ({"eta": 0.0} if "eta" in METHODS[name].defaults else {})
    error = {}
    for h in (0.1, 0.05):
        lam = torch.tensor([0.3, 0.3 + h_prev * h, 0.3 + h_prev * h + h], dtype=torch.float64)
        g = Grid(process.sigma(lam), process)
        step = one_step(table(name, g, **params), 1)
        assert step.a == pytest.approx(float(step.span.ratio), rel=1e-6)
        times = process.lam(torch.tensor(step.sigmas, dtype=torch.float64)) - lam[1]
        moment = sum((d + u) * t for d, u, t in zip(step.D, step.U, times.tolist()))
        error[h] = abs(moment - float(step.span.alpha_next) * (h - (1 - math.exp(-h))))
    assert error[0.05] < error[0.1] / 6 + 1e-12  # O(h³): a factor of 8, minus its own rest
    assert error[0.1] < 0.1 * 0.1**2


def test_split_and_ei_compose():
    """Two exact parts of an interval are the interval, for the mean and for the variance."""
    for process in PROCESSES:
        s = grid(process).span(2)
        one, two = s.split(0.3)
        (a1, b1, c1), (a2, b2, c2), (a, b, c) = one.ei(0.7), two.ei(0.7), s.ei(0.7)
        assert float(a1 * a2) == pytest.approx(float(a), rel=1e-12)
        assert float(a2 * b1 + b2) == pytest.approx(float(b), rel=1e-10)
        assert float((a2 * c1) ** 2 + c2**2) == pytest.approx(float(c) ** 2, rel=1e-10)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_ancestral_split_keeps_signal_and_variance(process):
    s = grid(process).span(3)
    down, keep, up = s.ancestral(0.8)
    alpha = process.alpha(down.sigma_next)
    assert float(keep * alpha) == pytest.approx(float(s.alpha_next), rel=1e-12)
    assert float((keep * down.sigma_next) ** 2 + up**2) == pytest.approx(float(s.sigma_next**2), rel=1e-12)
    assert s.ancestral(0.0)[0] is s
