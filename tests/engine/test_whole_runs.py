"""`sample`, `finish` and `iterate`: what they refuse, the largest seed, and latents that are not finite."""

import numpy as np
import pytest
import torch

import sigmafield as sf
from sigmafield.core.grid import Grid
from sigmafield.noise.policy import default_noise
from sigmafield.noise.sources import Gaussian, following
from sigmafield.runs.finite import Finite
from sigmafield.samplers import SAMPLERS

X = torch.ones(2, 3, 4, 4)
SIGMAS = torch.tensor([9.0, 3.0, 1.0, 0.2, 0.0])
TOP = 2**64 - 1


def denoise(x, sigma, ctx):
    """A model that always answers the same."""
    return sf.Pred(0.5 * torch.ones_like(x), uncond=torch.zeros_like(x))


def clock(percent):
    """Levels that fall evenly."""
    return 9.0 * (1 - percent)


def breaks(k, value):
    """A model whose answer to call k, from 0, has a number that is not finite."""
    calls = []

    def answer(x, sigma, ctx):
        calls.append(sigma)
        x0 = torch.zeros_like(x)
        x0[-1, -1, -1, -1] = value if len(calls) == k + 1 else 0.0
        return sf.Pred(x0)

    return answer


KINDS = {(sampler.noise, sampler.draws({})): name for name, sampler in SAMPLERS.items()}
"""A sampler for each kind of noise that is drawn, or is drawn on request only."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in KINDS.values() else pytest.mark.slow) for name in SAMPLERS]
)
def test_the_largest_seed_works_with_every_sampler(name):
    sigmas = SIGMAS[:2] if SAMPLERS[name].adaptive else SIGMAS[:-1]  # noise is left at the end
    first, again, other = (sf.sample(denoise, X, sigmas, name, clock=clock, seed=seed) for seed in (TOP, TOP, 5))
    assert torch.equal(first, again)
    assert torch.equal(first, other) != SAMPLERS[name].draws({})


def test_seeds_wrap():
    assert [following(TOP), following(TOP, 42), following(3)] == [0, 41, 4]
    grid = Grid(SIGMAS, sf.VE())
    for kind, seed in (("gaussian", 0), ("gaussian_pair", 0)):
        ours, theirs = default_noise(kind, TOP, grid, X), Gaussian(seed, X.shape)
        assert torch.equal(ours(grid.span(0)), theirs(grid.span(0)))


@pytest.mark.parametrize("k", range(4))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_ends_the_run_with_its_step(k, value):
    with pytest.raises(FloatingPointError, match=rf"^the latent has NaN or infinity after step {k + 1}; what usually"):
        sf.sample(breaks(k, value), X, SIGMAS)
    end = sf.sample(breaks(k, value), X, SIGMAS, allow_nonfinite=True)
    assert not end.isfinite().all()


def test_a_run_that_goes_on_names_the_step_of_the_whole_run():
    run = sf.Run(denoise, SAMPLERS["euler"], Grid(SIGMAS, sf.VE()))
    middle = list(sf.iterate(run, X))[1]
    broken = sf.Run(breaks(1, float("nan")), SAMPLERS["euler"], Grid(SIGMAS, sf.VE()))
    states = sf.iterate(broken, middle)
    assert next(states).i == 3
    with pytest.raises(FloatingPointError, match="after step 4"):
        next(states)


def test_the_first_of_many_is_named_and_nothing_is_read_of_a_latent_without_values():
    seen = Finite(torch.tensor(2))
    with pytest.raises(FloatingPointError, match="after step 2"):
        seen.after(sf.State(7, X / 0))
    assert Finite().after(sf.State(1, X.to("meta"))) == Finite()
    Finite().check()


@pytest.mark.parametrize(
    "sigmas, message",
    [
        ([1.0], "sigmas must be 2 levels or more, the first and the last among them; got 1"),
        (torch.tensor(1.0), "sigmas must be 2 levels or more, the first and the last among them; got 1"),
        ([3.0, 1.0, 2.0, 0.0], "sigmas must descend; level 2 is above level 1: 1 is followed by 2"),
        ([3.0, float("nan"), 0.0], "sigmas must be finite and ≥ 0; got nan"),
        ([float("inf"), 1.0], "sigmas must be finite and ≥ 0; got inf"),
        ("karras", "sigmas must be a tensor or a list of numbers; got 'karras'"),
        (torch.ones(2, 1, 1, 8, 8), "with one level for each position of x, (2, 3, 4, 4); got (2, 1, 1, 8, 8)"),
        (torch.ones(2, 3, 1, 4, 4), "with one level for each position of x, (2, 3, 4, 4); got (2, 3, 1, 4, 4)"),
        (torch.arange(32.0).reshape(2, 1, 1, 4, 4), "sigmas must descend; level 1 is above level 0"),
    ],
    ids=str,
)
@pytest.mark.typed_elsewhere
def test_levels_that_are_refused(sigmas, message):
    with pytest.raises(ValueError, match="^") as caught:
        sf.sample(denoise, X, sigmas)
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize(
    "sigmas", [[9, 3, 0], np.array([9.0, 3.0, 0.0]), (9.0, 3.0, 0.0)], ids=lambda v: type(v).__name__
)
@pytest.mark.typed_elsewhere
def test_levels_of_any_kind(sigmas):
    assert torch.equal(sf.sample(denoise, X, sigmas), sf.sample(denoise, X, torch.tensor([9.0, 3.0, 0.0])))


@pytest.mark.parametrize(
    "x, message",
    [
        (X.half(), "x must be a tensor of float32 or float64; got torch.float16"),
        (np.ones(3), "x must be a tensor of float32 or float64; got ndarray"),
        (X / 0, "x must be finite; it has NaN or infinity"),
    ],
    ids=["half", "numpy", "infinite"],
)
@pytest.mark.typed_elsewhere
def test_latents_that_are_refused(x, message):
    with pytest.raises(ValueError, match="^") as caught:
        sf.sample(denoise, x, SIGMAS)
    assert str(caught.value) == message


@pytest.mark.typed_elsewhere
def test_answers_that_are_refused():
    with pytest.raises(TypeError, match=r"a denoiser must answer Pred\(x0\), x0 of x's shape; got Tensor"):
        sf.sample(lambda x, sigma, ctx: x, X, SIGMAS)
    with pytest.raises(ValueError, match=r"must answer x0 of x's shape, \(2, 3, 4, 4\); got \(1, 3, 4, 4\)"):
        sf.sample(lambda x, sigma, ctx: sf.Pred(x[:1]), X, SIGMAS)
