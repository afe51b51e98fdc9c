"""What `convergence` returns and refuses; the orders themselves are laws in the engine's tests."""

import pytest

from sigmafield.core.process import VE, Flow
from sigmafield.lab import convergence
from sigmafield.models.analytic import Mixture

GAUSSIAN = {"means": (0.4,), "weights": (1.0,), "tau": 0.6}


def test_counts_and_errors_are_those_of_the_runs():
    seen = convergence("heun", Flow(), (4, 16, 64), model=Mixture(**GAUSSIAN, process=Flow()))
    assert seen.steps == (4, 16, 64)
    assert seen.nfe == (8, 32, 128)
    assert seen.errors[0] > seen.errors[1] > seen.errors[2]
    assert seen.slope == pytest.approx(2, abs=0.2)


def test_methods_with_noise_run_without_it():
    """`dpmpp_2m_sde` with η = 0 is `dpmpp_2m` where λ = −ln σ."""
    sde, ode = (convergence(name, steps=(8, 16), model=Mixture(**GAUSSIAN)) for name in ("dpmpp_2m_sde", "dpmpp_2m"))
    assert sde.errors == pytest.approx(ode.errors, rel=1e-9)


@pytest.mark.parametrize(
    "steps, model, message",
    [
        ((8,), None, r"two or more even numbers, ascending; got \(8,\)"),
        ((8, 9), None, "even"),
        ((16, 8), None, "ascending"),
        ((8, 16), Mixture(process=Flow()), "model is of another process"),
    ],
)
def test_refusals(steps, model, message):
    with pytest.raises(ValueError, match=message):
        convergence("euler", VE(), steps, model=model)
