"""Noise sources: keyed noise is order-free, a stream goes on from its state, all have unit variance."""

import pytest
import torch
from laws import grid

from sigmafield.brownian import Brownian
from sigmafield.grid import VE, Span
from sigmafield.noise import Gaussian, Keyed, randn

SHAPE = (2, 3, 4, 5)


def span(a, b, i=0):
    return Span(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), VE(), i, 10)


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
