"""Processes, spans, predictions and levels: round trips, neutral values, shapes and dtypes."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from laws import PROCESSES, grid, guided

from sigmafield.core.grid import Grid
from sigmafield.core.linear import lincomb, safe_div
from sigmafield.core.process import VE, Flow
from sigmafield.core.protocols import Pred
from sigmafield.core.registry import near_miss
from sigmafield.parameterization import prediction as param
from sigmafield.parameterization.timesteps import betas
from sigmafield.runs.run import sample
from sigmafield.samplers import SAMPLERS

SAMPLINGS = {
    "eps": param.discrete_sampling("eps", betas()),
    "v": param.discrete_sampling("v", betas()),
    "flow": param.flow_sampling(3.0),
}


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_lam_and_sigma_are_inverse(process):
    sigma = torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    torch.testing.assert_close(process.sigma(process.lam(sigma)), sigma)
    torch.testing.assert_close(process.lam(sigma).exp() * sigma, process.alpha(sigma))


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_perfect_network_predicts_the_clean_latent(name):
    """If the network gives what its prediction type asks for, D is x0 at any σ."""
    sampling = SAMPLINGS[name]
    x0, xi = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sigma in torch.tensor([0.05, 0.4, 0.95], dtype=torch.float64):
        alpha = sampling.process.alpha(sigma)
        x = alpha * x0 + sigma * xi
        F = {"eps": xi, "v": (xi - sigma * x0) / (sigma**2 + 1).sqrt(), "flow": xi - x0}[name]
        pre = sampling.prediction(sigma)
        torch.testing.assert_close(lincomb(pre.c_skip, x, pre.c_out, F), x0)


@pytest.mark.parametrize("name", ["eps", "v"])
def test_discrete_levels_and_timesteps_are_inverse(name):
    levels = SAMPLINGS[name].levels
    t = torch.arange(1000)
    torch.testing.assert_close(levels.timestep(levels.sigma(t)), t.double())
    assert levels.sigma_at(0.0) == 999999999.9
    assert levels.sigma_at(1.0) == 0.0


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(SAMPLERS)),
    shape=st.sampled_from([(1, 4, 7), (2, 1, 3, 5), (1, 2, 3, 4, 4), (0, 4, 2, 2)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    process=st.sampled_from(PROCESSES),
    steps=st.integers(1, 4),
)
@example(name="distance", shape=(1, 4, 7), dtype=torch.float32, process=VE(), steps=2)  # slopes of opposite direction
def test_every_method_takes_every_shape_and_dtype(name, shape, dtype, process, steps):
    """1-D to video latents, empty batches, half-precision predictions: shape and dtype of x are kept."""
    if SAMPLERS[name].adaptive and not shape[0]:
        return  # an empty batch has no error to control
    g = grid(process, n=steps)
    x = process.start(g.sigmas[0], torch.ones(shape, dtype=dtype), torch.zeros(shape, dtype=dtype))
    model = guided(process)

    def half(x, sigma, ctx):
        return Pred(*(answer.half().to(x.dtype) for answer in model(x, sigma, ctx)))

    end = sample(half, x, g.sigmas, name, process=process, clock=g.clock)
    assert end.shape == shape
    assert end.dtype == dtype
    assert torch.isfinite(end).all()


def test_lincomb_changes_no_argument_and_takes_all_coefficients():
    v, w = torch.randn(2, 1, 2, 3, 3)
    before = v.clone(), w.clone()
    field = torch.linspace(0, 1, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    out = lincomb(2.0, v, torch.tensor(0.5, dtype=torch.float64), w, field, v)
    torch.testing.assert_close(out, 2 * v + 0.5 * w + field.float() * v)
    assert torch.equal(v, before[0])
    assert torch.equal(w, before[1])


def test_safe_div_is_zero_without_history():
    a = torch.ones(3, dtype=torch.float64)
    assert safe_div(a, torch.tensor([0.0, 1e-9, 2.0], dtype=torch.float64)).tolist() == [0.0, 0.0, 0.5]


def test_start_and_finish_are_the_ends_of_the_process():
    latent, noise = torch.randn(2, 1, 4, 3, 3, dtype=torch.float64)
    sigma = torch.tensor(0.25, dtype=torch.float64)
    x = Flow().start(sigma, noise, latent)
    torch.testing.assert_close(x, 0.75 * latent + 0.25 * noise)
    torch.testing.assert_close(Flow().finish(sigma, 0.75 * latent), latent)
    torch.testing.assert_close(VE(2.0).start(sigma, noise, latent), latent + 0.25 * noise)
    pure = VE(2.0).start(torch.tensor(2.0, dtype=torch.float64), noise, latent)
    torch.testing.assert_close(pure, latent + 5**0.5 * noise)


def test_grid_says_what_is_wrong_with_its_levels():
    for sigmas, message in [
        (torch.ones(2, 3), "or a field"),
        (torch.ones(2, 1, 4, 4, 4), "or a field"),
        (torch.tensor([float("nan"), 0.0]), "finite and ≥ 0; got nan"),
        (torch.tensor([float("inf"), 0.0]), "finite and ≥ 0; got inf"),
    ]:
        with pytest.raises(ValueError, match=message):
            Grid(sigmas, VE())


def test_near_miss():
    assert near_miss("eular", ["euler", "heun"]) == "; did you mean euler?"
    assert near_miss("xyz", ["euler", "heun"]) == "; known: euler, heun"
