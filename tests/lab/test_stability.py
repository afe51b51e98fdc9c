"""Stability regions against closed forms of the test equation, and against the growth of long runs."""

import math

import pytest
import torch

from sigmafield.core.grid import Grid
from sigmafield.core.process import VE
from sigmafield.core.protocols import Pred
from sigmafield.lab import amplification, real_interval
from sigmafield.runs.run import Run
from sigmafield.samplers import SAMPLERS

Z = torch.complex(*torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))) * 2


def largest_root(*coefficients):
    """Largest modulus of the roots of r² + p r + q, elementwise."""
    p, q = coefficients
    root = (p * p - 4 * q).sqrt()
    return torch.maximum(((-p + root) / 2).abs(), ((-p - root) / 2).abs())


@pytest.mark.parametrize("h", [0.1, 0.3, 1.0])
def test_euler(h):
    """x' = (ρ + (1 − ρ) (1 + μ)) x with ρ = e^(−h): a disc of radius h/(1 − ρ)."""
    closed = (1 + (1 - math.exp(-h)) * Z / h).abs()
    assert torch.allclose(amplification("euler", Z, h), closed, rtol=1e-12)
    assert real_interval("euler", h) == pytest.approx(2 * h / (1 - math.exp(-h)), abs=1e-4)


@pytest.mark.parametrize("h", [0.1, 0.3, 1.0])
def test_heun(h):
    """x' = (ρ + (1 − ρ − w) g + w g (ρ + (1 − ρ) g)) x, w = (1 − ρ)/(2ρ), g = 1 + μ."""
    rho, g = math.exp(-h), 1 + Z / h
    w = (1 - rho) / (2 * rho)
    closed = (rho + (1 - rho - w) * g + w * g * (rho + (1 - rho) * g)).abs()
    assert torch.allclose(amplification("heun", Z, h), closed, rtol=1e-12)


@pytest.mark.parametrize("h", [0.1, 0.3, 1.0])
def test_two_steps_in_lambda(h):
    """DPM-Solver++(2M): r² − (ρ + (3/2) b g) r + b g/2 = 0, b = 1 − ρ."""
    rho, g = math.exp(-h), 1 + Z / h
    b = 1 - rho
    closed = largest_root(-(rho + 1.5 * b * g), 0.5 * b * g)
    assert torch.allclose(amplification("dpmpp_2m", Z, h), closed, rtol=1e-9)


@pytest.mark.parametrize("h", [0.1, 0.3, 1.0])
def test_two_steps_in_sigma(h):
    """Adams–Bashforth on slopes (x − D)/σ, whose memory scales with 1/σ: δ/σ = ρ − 1, δ/δ₋ = ρ, σ/σ₋ = ρ."""
    rho, k = math.exp(-h), -Z / h  # (x − D)/x
    now, before = (rho - 1) * (1 + rho / 2) * k, -(rho - 1) * rho / 2 * k * rho
    closed = largest_root(-(1 + now), -before)
    assert torch.allclose(amplification("lms", Z, h, order=2), closed, rtol=1e-9)


def test_textbook_regions_for_short_steps():
    """For h → 0: second-order Adams–Bashforth is stable on (−1, 0), second-order Runge–Kutta on (−2, 0)."""
    for name, interval in {"dpmpp_2m": 1.0, "res_multistep": 1.0, "heun": 2.0, "dpm_2": 2.0, "euler": 2.0}.items():
        assert real_interval(name, 1e-3) == pytest.approx(interval, abs=5e-3)


FIRST = {sampler.step: name for name, sampler in reversed([*SAMPLERS.items()])}

HAS_OWN_SCALE = {
    "dpm_fast",
    "heunpp2",
    "deis",
    "er_sde",
    "er_sde_ode",
    "er_sde_reverse_time",
    "sa_solver",
    "sa_solver_pece",
}
"""Their coefficients depend on the step or on σ (SA-Solver: where its noise is on): no one factor of growth."""


OF_ANOTHER = {name for name, m in SAMPLERS.items() if name != FIRST[m.step]}
"""Samplers that are another one's function with other parameters, which are at work here only as numbers."""


def linear(but=()):
    """Names of linear samplers; slow are those of another one's function."""
    names = [name for name, m in SAMPLERS.items() if m.linear and name not in but]
    return [pytest.param(name, marks=pytest.mark.slow if name in OF_ANOTHER else ()) for name in names]


@pytest.mark.parametrize("name", linear(HAS_OWN_SCALE))
@pytest.mark.typed_elsewhere
def test_runs_grow_by_the_spectral_radius(name):
    """After many equal steps, x grows by the spectral radius per step, at a z where the largest eigenvalue is real."""
    h, n = 0.3, 36
    z = torch.tensor(-3.0, dtype=torch.float64)

    class Silence:
        def __call__(self, span):
            return torch.zeros(1, 1, 1, 1, dtype=torch.float64)

        def get_state(self):
            return None

        def set_state(self, state):
            pass

    def denoise(x, sigma, ctx):
        D = (1 + float(z) / h) * x
        return Pred(D, D, D)

    lam = h * (torch.arange(n + 8, dtype=torch.float64) - n)  # to σ = 1, above which UniPC's float32 is accurate
    run = Run(denoise, SAMPLERS.lookup(name), Grid(VE().sigma(lam), VE()), Silence())
    state, size = run.start(torch.ones(1, 1, 1, 1, dtype=torch.float64)), []
    for _ in range(n):
        state = run.step(state)
        size.append(float(state.x.abs().max()))
    radius = float(amplification(name, z, h))
    assert radius > 1
    assert size[-1] / size[-2] == pytest.approx(radius, rel=1e-4 if name.startswith("uni_pc") else 1e-9)


@pytest.mark.parametrize("name", linear())
def test_what_needs_no_damping_is_kept(name):
    """D(x) = x leaves x unchanged: the radius at z = 0 is 1."""
    always = {"sde_start_percent": 0.0, "sde_end_percent": 1.0} if name.startswith("sa_solver") else {}
    assert float(amplification(name, torch.zeros((), dtype=torch.float64), **always)) == pytest.approx(1, abs=1e-6)


def test_shape_and_errors():
    z = torch.zeros(2, 3, dtype=torch.complex128)
    assert amplification("dpmpp_2m", z).shape == (2, 3)
    for call, message in {
        lambda: amplification("dpm_adaptive", z): "dpm_adaptive is not linear",
        lambda: amplification("eular", z): "did you mean euler",
        lambda: amplification("euler", z, 0.0): "h must be above 0; got 0.0",
        lambda: amplification("euler", z / 0): "z must be finite",
        lambda: amplification("euler", z, eta=1.0): "euler has no parameter 'eta'",
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
