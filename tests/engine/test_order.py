"""Order of convergence, in both processes, on exact denoisers: Gaussian (closed form) and mixture (fine reference)."""

import pytest
from laws import CORRECTED, LINEAR, PROCESSES, repeats

from sigmafield.lab.convergence import START, alone, convergence, solution, uneven
from sigmafield.models.analytic import Mixture
from sigmafield.runs.run import Run, finish
from sigmafield.samplers import SAMPLERS

# no ODE to converge to: all noise is new in each step, or noise cannot be switched off
STOCHASTIC = {"ddpm", "lcm"}
# ComfyUI's coefficients lower the order: see the docstrings
INEXACT = {
    "ipndm_v": "its coefficients do not sum to 1 on unequal steps",
    "er_sde": "its integrals are sums over 200 points: between first and second order",
    "dpmpp_2s_ancestral_cfg_pp": "it mixes D of one stage with U of another",
}
INEXACT |= dict.fromkeys(["er_sde_ode", "er_sde_reverse_time"], INEXACT["er_sde"])


# coefficients of flows are compared with the reference's numbers by tests/parity
processes = pytest.mark.parametrize(
    "process", [PROCESSES[0], pytest.param(PROCESSES[1], marks=pytest.mark.slow)], ids=str
)
SOLVERS = [*LINEAR, "distance_c2", "distance_c3", "perp_step"]  # the last three are not linear, but solve the ODE


LONGER = {
    "sa_solver": (32, 96), "sa_solver_pece": (36, 108), "gradient_estimation": (24, 72),
    "gradient_estimation_cfg_pp": (24, 72),
}  # fmt: skip
"""Numbers of steps by default, where (16, 48) are too few."""


def samplers():
    for name in SOLVERS:
        if name not in STOCHASTIC:
            marks = [pytest.mark.xfail(strict=True, reason=INEXACT[name])] if name in INEXACT else []
            yield pytest.param(name, marks=[*marks, *repeats(name)])


@processes
@pytest.mark.parametrize("kind", ["mixture", pytest.param("gaussian", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", list(samplers()))
@pytest.mark.typed_elsewhere
def test_order(name, kind, process):
    gaussian = Mixture(means=(0.4,), weights=(1.0,), tau=0.6, process=process)
    model = gaussian if kind == "gaussian" else Mixture(process=process)
    # long enough for the first term of the error to lead, short of where the start or float64 decides
    steps = {1: (32, 96), 2: (24, 72)}.get(SAMPLERS[name].order, (48, 144))
    if (kind, process) == ("mixture", PROCESSES[0]):
        steps = LONGER.get(name, (16, 48))
    elif name == "distance_c2":
        steps = (64, 192)  # on a Gaussian its error falls faster than with first order before
    steps = (98, 290) if name == "dpm_fast" else steps  # its last steps are of lower order
    params = {"lms": {"order": 2}, "deis": {"max_order": 2}, "dpm_fast": {"precise": True}}.get(name, {})
    seen = convergence(name, process, steps, model=model, **params)
    assert seen.slope == pytest.approx(SAMPLERS[name].order, abs=0.3), f"errors {seen.errors}"


@processes
@pytest.mark.parametrize("name", ["distance", "distance_n", "distance_p", "distance_fast"])
def test_resampling_that_ends_in_heuns_steps_is_between_first_and_second_order(name, process):
    assert 0.8 < convergence(name, process, (16, 48)).slope < 2.1


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_methods_without_an_ode_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} has no parameter that turns its noise off"):
        convergence(name)


def test_adaptive_meets_its_tolerance():
    """A tighter tolerance takes more evaluations and ends closer to the solution."""
    model = Mixture()
    errors, calls = [], []
    for tolerance in (1e-2, 1e-4):
        params = {"rtol": tolerance, "atol": tolerance / 10, "eta": 0.0}
        run = Run(alone(model), SAMPLERS["dpm_adaptive"], uneven(PROCESSES[0], 2), params=params)
        state = finish(run, START)
        errors.append(float((state.x - solution(model)).abs().max()))
        calls.append(state.nfe)
    assert errors[1] < errors[0] / 20 and calls[1] > calls[0]
    assert errors[1] < 1e-3


# of order 3 or more with full history; they start with order 1, so at least 2 remains
EXACT = [case for case in CORRECTED if case[0] in INEXACT or case[0] == "deis"]


@processes
@pytest.mark.parametrize(
    "name, params",
    [pytest.param(*case, marks=pytest.mark.slow if "deis_mode" in case[1] else ()) for case in EXACT],
    ids=str,
)  # in σ, DEIS has the weights of ipndm_v's correction
def test_corrected_methods_converge(name, params, process):
    """The samplers of `INEXACT` do not reach second order with ComfyUI's coefficients, but do with the corrections."""
    params = params | ({"max_order": 3} if "max_order" in SAMPLERS[name].defaults else {})
    seen = convergence(name, process, (16, 64), **params)
    assert seen.slope > 1.9, f"errors {seen.errors}"
