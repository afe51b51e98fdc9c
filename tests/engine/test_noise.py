"""Noise sources: the Brownian path is torchsde's to the bit, keyed noise is order-free, all have unit variance."""

import itertools

import pytest
import torch
import torchsde
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import grid

from sigmafield.grid import VE, Grid, Span
from sigmafield.noise import Brownian, Gaussian, Keyed, randn
from sigmafield.schedules import karras

SHAPE = (2, 3, 4, 5)


def span(a, b, i=0):
    return Span(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), VE(), i, 10)


def tree(sigmas, seed, dtype):
    """torchsde's own tree over the positive levels, asked as k-diffusion asks it."""
    t0, t1 = sigmas[sigmas > 0].min().float(), sigmas.max().float()
    return torchsde.BrownianTree(t0, torch.zeros(SHAPE, dtype=dtype), t1, entropy=seed, tol=1e-6, pool_size=24)


@pytest.mark.filterwarnings("ignore:Should have tb<=t1")  # torchsde clamps to its rounded ends, and says so
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("order", ["forwards", "backwards", "random"])
def test_brownian_is_torchsde(dtype, order):
    sigmas = karras(20, 0.0291675, 14.614642)
    pairs = [*itertools.pairwise(sigmas[:-1].tolist()), (9.0, 3.0), (3.0, 1.5), (0.5, 2.5)]
    if order == "backwards":
        pairs.reverse()
    if order == "random":
        pairs = [pairs[k] for k in torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()]
    ours, theirs = Brownian(12, Grid(sigmas, VE()), SHAPE, dtype), tree(sigmas, 12, dtype)
    for a, b in pairs:
        low, high = sorted((torch.tensor(a).float(), torch.tensor(b).float()))
        expected = theirs(low, high) * (1 if a < b else -1) / abs(b - a) ** 0.5
        torch.testing.assert_close(ours(span(a, b)), expected, rtol=2e-7, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.03, 14.5), st.floats(0.03, 14.5), st.integers(0, 2**40))
def test_brownian_increments_equal_torchsde_bit_for_bit(a, b, seed):
    low, high = sorted((float(torch.tensor(a)), float(torch.tensor(b))))
    sigmas = torch.tensor([14.6, 1.0, 0.0291675, 0.0])
    ours = Brownian(seed, Grid(sigmas, VE()), SHAPE)._increment(round(low, 6), round(high, 6))
    assert torch.equal(ours, tree(sigmas, seed, torch.float32)(torch.tensor(low), torch.tensor(high)) + 0.0)


def test_brownian_path_is_additive_and_remembers_little():
    """Increments over adjoining intervals add up; a small memory changes nothing but the work."""
    g = grid(VE(), n=30)
    wide, narrow = Brownian(3, g, SHAPE, torch.float64), Brownian(3, g, SHAPE, torch.float64, capacity=2)
    a, b, c = 7.5, 2.25, 0.5
    parts = wide(span(a, b)) * (a - b) ** 0.5 + wide(span(b, c)) * (b - c) ** 0.5
    torch.testing.assert_close(parts, wide(span(a, c)) * (a - c) ** 0.5)
    assert torch.equal(wide(span(b, c)), narrow(span(b, c)))
    assert len(narrow._nodes) <= 2


def test_keyed_noise_depends_on_its_key_alone():
    whole, alone = Keyed([5, 6, 7], (3, 2, 8, 8)), Keyed([6], (1, 2, 8, 8))
    first, second = whole(span(2.0, 1.0, i=4)), whole(span(2.0, 1.0, i=4))
    assert torch.equal(alone(span(9.0, 3.0, i=4))[0], first[1])  # neither the batch nor the interval matters
    assert not torch.equal(first, second)  # two draws within a step differ
    whole.set_state(None)
    assert torch.equal(whole(span(2.0, 1.0, i=4)), first)
    assert not torch.equal(whole(span(2.0, 1.0, i=5)), first)
    assert not torch.equal(first[0], first[1])
    with pytest.raises(ValueError, match="one seed a sample: got 1 for a batch of 3"):
        Keyed([1], (3, 2, 8, 8))


def test_gaussian_continues_from_its_state():
    source = Gaussian(1, SHAPE)
    assert torch.equal(source(span(2.0, 1.0)), randn(1, SHAPE))
    state = source.get_state()
    following = source(span(2.0, 1.0))
    source.set_state(state)
    assert torch.equal(source(span(2.0, 1.0)), following)


@pytest.mark.parametrize("kind", [Gaussian, Keyed, Brownian])
def test_unit_variance_and_no_correlation(kind):
    """Over 200 000 numbers: mean 0 ± 0.01, variance 1 ± 0.015; disjoint intervals uncorrelated within 0.01."""
    shape = (1, 1, 400, 500)
    source = {
        Gaussian: lambda: Gaussian(2, shape),
        Keyed: lambda: Keyed([2], shape),
        Brownian: lambda: Brownian(2, grid(VE()), shape),
    }[kind]()
    a, b = source(span(5.0, 2.0, i=1)), source(span(2.0, 0.7, i=2))
    for xi in (a, b):
        assert abs(float(xi.mean())) < 0.01
        assert abs(float(xi.var()) - 1) < 0.015
    assert abs(float((a * b).mean())) < 0.01


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_have_a_range(seed):
    for make in (lambda: randn(seed, (1,)), lambda: Gaussian(seed, (1,))):
        with pytest.raises(ValueError, match=f"seed must be 0 … 2\\*\\*64 - 1; got {seed}"):
            make()


def test_brownian_refuses_a_field():
    with pytest.raises(ValueError, match="one sigma per step; got a field"):
        Brownian(1, Grid(torch.ones(3, 1, 1, 4, 4), VE()), (1, 3, 4, 4))
