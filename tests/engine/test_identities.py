"""Identities of the coefficients, without a model: constants, marginals and the first moment."""

import math

import pytest
import torch
from laws import CHURN, CORRECTED, FLOW_NOISE, LARGE, LINEAR, PROCESSES, grid, on, repeats, run_of

from sigmafield.core.process import Flow
from sigmafield.core.protocols import Pred
from sigmafield.lab import one_step, table
from sigmafield.runs.run import Run, finish
from sigmafield.samplers import SAMPLERS

NAMES = [(name, {}) for name in LINEAR] + [
    ("euler", CHURN),
    *((name, CHURN) for name in ("heun", "heunpp2", "dpm_2")),
    ("dpm_fast", {"eta": 0.7}),
    ("euler_ancestral", LARGE),
    ("dpm_2_ancestral", LARGE),
    ("dpmpp_2m_sde", {"eta": 0.4}),
    ("dpmpp_2m_sde_heun", {"eta": 0.0}),
    ("seeds_2", {"eta": 0.7, "r": 0.6, "solver": "phi_2"}),
]
# quirks reproduced from the reference; with the parameters of `CORRECTED` these samplers keep the law
ALWAYS_OFF = {
    "ipndm_v": "its coefficients do not sum to 1 on unequal steps",
    "deis": "its integrals are sums that are 1e-4 off",
    "uni_pc": "its coefficients are float32",
    "uni_pc_bh2": "its coefficients are float32",
    "dpm_fast": "its coefficients are float32",
}
VE_ON_FLOW = {
    "ddpm": {},
    "dpmpp_2s_ancestral_cfg_pp": {},
    "res_multistep_ancestral": {},
    "res_multistep_ancestral_cfg_pp": {},
    **dict.fromkeys(("euler", "heun", "heunpp2", "dpm_2"), CHURN),
}


def broken(name, params, process):
    """Why a law does not hold with the reference's behaviour, or None."""
    if name in ALWAYS_OFF:
        return ALWAYS_OFF[name]
    if VE_ON_FLOW.get(name) == params and isinstance(process, Flow):
        return "VE's noise on a flow"
    if params == LARGE and (name == "dpm_2_ancestral" or not isinstance(process, Flow)):
        return "a jump to D without noise"
    return None


def cases():
    for name, params in NAMES:
        for process in PROCESSES:
            reason = broken(name, params, process)
            marks = [pytest.mark.xfail(strict=True, reason=f"{reason}, as in the reference")] if reason else []
            yield pytest.param(name, params, process, marks=[*marks, *repeats(name)], id=f"{name}{params}{process}")
    for name, params in CORRECTED:
        for process in PROCESSES:
            yield pytest.param(name, params, process, id=f"{name}{params}{process}")


# of lower order on two steps, with their own schedule, or with the predicted x as their state
NOT_IN_TWO_STEPS = {"uni_pc", "uni_pc_bh2", "dpm_fast", "sa_solver", "sa_solver_pece"}
SECOND_ORDER = [
    pytest.param(name, {}, marks=repeats(name))
    for name in LINEAR
    if SAMPLERS[name].order >= 2 and name not in NOT_IN_TWO_STEPS
]
SECOND_ORDER += [
    ("ipndm_v", {"exact_weights": True}),
    ("deis", {"quadrature": "gauss"}),
    ("er_sde_ode", {"quadrature": "gauss"}),
]
SECOND_ORDER += [("seeds_2", {"solver": solver, "r": 0.6}) for solver in ("phi_1", "phi_2")]


@pytest.mark.parametrize("name, params, process", list(cases()))
@pytest.mark.typed_elsewhere
def test_constants_and_marginals(name, params, process):
    """A network that always predicts the same x0 gives α' x0, and the remaining noise has variance σ'²."""
    g = grid(process, 6)
    for row in table(name, g, **params):
        s, s0 = row.span, table_start(name, g, params)
        alpha0, alpha = float(process.alpha(s0)), float(process.alpha(s.sigma_next))
        assert row.a * alpha0 + sum(row.D) + sum(row.U) == pytest.approx(alpha, abs=1e-12)
        kept = row.a**2 * float(s0) ** 2 + sum(c * c for c in row.xi)
        assert kept == pytest.approx(float(s.sigma_next) ** 2, rel=1e-11, abs=1e-20)


def table_start(name, g, params):
    regrid = SAMPLERS[name].grid
    return (regrid(g, SAMPLERS[name].values | params) if regrid else g).sigmas[0]


TO_THE_END = [(name, {}) for name in SAMPLERS] + [
    (name, params) for name, params in CORRECTED if "end" in params or "denoise_to_zero" in params
]
TO_THE_END += [("dpm_adaptive", {"denoise_to_zero": True})]
STOPS_BEFORE = {"uni_pc", "uni_pc_bh2", "dpm_fast", "dpm_adaptive"}


@pytest.mark.parametrize("process", PROCESSES, ids=str)
@pytest.mark.parametrize(
    "name, params",
    [
        pytest.param(name, params, marks=pytest.mark.xfail(strict=True, reason="it ends above 0, as in the reference"))
        if name in STOPS_BEFORE and not params
        else pytest.param(name, params, marks=repeats(name))
        for name, params in TO_THE_END
    ],
)
@pytest.mark.typed_elsewhere
def test_a_run_to_zero_ends_at_the_prediction(name, params, process):
    """If the network always predicts c, a run whose schedule ends at 0 gives c, however few its steps."""
    c = torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64)
    x = torch.linspace(-5, 5, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    for steps in (5, 1, 2):
        end = finish(run_of(name, lambda x, sigma, ctx: Pred(c, c, c), grid(process, steps), x, **params), x)
        torch.testing.assert_close(end.x, c, rtol=1e-12, atol=0)


class Axes:
    """Noise whose draws are orthogonal unit vectors, starting at the third: x begins as σ₀ e₁ + α₀ e₂."""

    def __init__(self, size):
        self.size, self.drawn = size, 2

    def unit(self, k):
        return torch.nn.functional.one_hot(torch.tensor(k), self.size).double().reshape(1, 1, 1, -1)

    def __call__(self, span):
        self.drawn += 1
        return self.unit(self.drawn - 1)

    def get_state(self):
        return None

    def set_state(self, state):
        pass


VE_NOISE = pytest.mark.xfail(strict=True, reason="VE's noise on a flow, as in the reference")


@pytest.mark.parametrize(
    "process, params",
    [
        (PROCESSES[0], {}),
        pytest.param(PROCESSES[1], {}, marks=VE_NOISE),
        (PROCESSES[0], FLOW_NOISE),
        (PROCESSES[1], FLOW_NOISE),
    ],
    ids=str,
)
def test_constants_and_marginals_of_chosen_steps(process, params):
    """dpm_adaptive has no table; with a network that always predicts e₂, x is the list of its weights."""
    g, axes = on(grid(process).sigmas[:-1], process), Axes(200)
    x = float(g.sigmas[0]) * axes.unit(0) + float(process.alpha(g.sigmas[0])) * axes.unit(1)
    constant = axes.unit(1)
    run = Run(lambda x, sigma, ctx: Pred(constant), SAMPLERS["dpm_adaptive"], g, axes, {"eta": 0.7, **params})
    first, signal, *noises = finish(run, x).x.flatten().tolist()
    assert axes.drawn > 3
    assert signal == pytest.approx(float(process.alpha(g.sigmas[-1])), abs=1e-12)
    assert first**2 + sum(c * c for c in noises) == pytest.approx(float(g.sigmas[-1]) ** 2, rel=1e-9)


@pytest.mark.parametrize(
    "params",
    [
        pytest.param({}, marks=pytest.mark.xfail(strict=True, reason="all noise is new at σ = 1, as in the reference")),
        {"keep_first_noise": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("eta", [0.3, 0.8])
def test_the_first_step_of_a_flow_is_the_limit(eta, params):
    """Coefficients at σ = 1 are the limit for σ → 1."""
    at_one, near = (
        table(
            "euler_ancestral_cfg_pp", on(torch.tensor([s, 0.7, 0.3], dtype=torch.float64), Flow()), eta=eta, **params
        )[0]
        for s in (1.0, 1 - 1e-9)
    )
    for a, b in ((at_one.a, near.a), (at_one.D[0], near.D[0]), (at_one.xi[0], near.xi[0])):
        assert a == pytest.approx(b, abs=1e-6)


@pytest.mark.parametrize("h_prev", [2.0, 0.5])
@pytest.mark.parametrize("process", PROCESSES, ids=str)
@pytest.mark.parametrize("name, params", SECOND_ORDER, ids=str)
def test_first_moment(name, params, process, h_prev):
    """Σ ℓ_j (λ_j − λ) = α' (h − (1 − e^(−h))) + O(h³) over a step with history at h₋ = 2h and h/2, η = 0."""
    params = params | ({"eta": 0.0} if "eta" in SAMPLERS[name].defaults else {})
    error = {}
    for h in (0.1, 0.05):
        lam = torch.tensor([0.3, 0.3 + h_prev * h, 0.3 + h_prev * h + h], dtype=torch.float64)
        g = on(process.sigma(lam), process)
        step = one_step(table(name, g, **params), 1)
        assert step.a == pytest.approx(float(step.span.ratio), rel=1e-6)
        times = process.lam(torch.tensor(step.sigmas, dtype=torch.float64)) - lam[1]
        moment = sum((d + u) * t for d, u, t in zip(step.D, step.U, times.tolist()))
        error[h] = abs(moment - float(step.span.alpha_next) * (h - (1 - math.exp(-h))))
    assert error[0.05] < error[0.1] / 6 + 1e-12  # O(h³): a factor of 8, less higher orders
    assert error[0.1] < 0.1 * 0.1**2


def test_split_and_ei_compose():
    """Two exact parts of an interval compose to the interval, for the mean and for the variance."""
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
