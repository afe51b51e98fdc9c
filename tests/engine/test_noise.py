"""Noise sources: keyed noise is independent of the order, a stream continues from its state, all have unit variance."""

import math

import pytest
import torch
from laws import grid

from sigmafield.core.process import VE, Span
from sigmafield.noise.brownian import Brownian
from sigmafield.noise.sources import Gaussian, Keyed, initial_noise, randn

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
    with pytest.raises(ValueError, match="one seed per sample: got 1 for a batch of 3"):
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
    """Over 50 000 numbers: mean 0 ± 0.02, variance 1 ± 0.03; disjoint intervals uncorrelated within 0.02."""
    shape = (1, 1, 200, 250)  # each bound is more than four standard deviations
    source = {
        Gaussian: lambda: Gaussian(2, shape),
        Keyed: lambda: Keyed([2], shape),
        Brownian: lambda: Brownian(2, grid(VE()), shape),
    }[kind]()
    a, b = source(span(5.0, 2.0, i=1)), source(span(2.0, 0.7, i=2))
    for xi in (a, b):
        assert abs(float(xi.mean())) < 0.02
        assert abs(float(xi.var()) - 1) < 0.03
    assert abs(float((a * b).mean())) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_initial_noise_is_one_draw_of_the_batch(dtype):
    """Equal to torch.manual_seed and torch.randn, without the global generator."""
    expected = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2**64 - 1), dtype=dtype)
    before = torch.get_rng_state()
    noise = initial_noise(2**64 - 1, SHAPE, dtype=dtype)
    assert torch.equal(noise, expected) and noise.dtype == dtype
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("space", [(4, 4), (8,), (2, 4, 4), (3, 5)], ids=str)
@pytest.mark.parametrize("index", [[0, 1, 2], [4, 0, 0], [2], [], [7, 3]], ids=str)
def test_batch_index_picks_from_samples_drawn_in_turn(index, space):
    """Sample k is draw batch_index[k]: of the whole batch if a sample's size is a multiple of 16, else drawn alone."""
    one = (4, *space)
    alone, stream = torch.Generator().manual_seed(9), torch.Generator().manual_seed(9)
    drawn = torch.cat(
        [torch.empty(0, *one), *(torch.randn((1, *one), generator=alone) for _ in range(max(index, default=-1) + 1))]
    )
    noise = initial_noise(stream, (len(index), *one), index)
    assert torch.equal(noise, drawn[index])
    whole = initial_noise(9, drawn.shape)
    assert torch.equal(drawn, whole) == (math.prod(one) % 16 == 0 or len(drawn) < 2)
    assert torch.equal(torch.randn(5, generator=stream), torch.randn(5, generator=alone))  # skipped draws count


def test_initial_noise_leaves_the_stream_to_churn():
    stream = torch.Generator().manual_seed(4)
    first, churn = initial_noise(stream, SHAPE), Gaussian(stream, SHAPE)
    reference = torch.Generator().manual_seed(4)
    expected = [torch.randn(SHAPE, generator=reference) for _ in range(2)]
    assert torch.equal(first, expected[0]) and torch.equal(churn(span(2.0, 1.0)), expected[1])


def test_initial_noise_says_what_is_wrong():
    with pytest.raises(ValueError, match="one draw per sample: got 2 for a batch of 3"):
        initial_noise(1, (3, 4, 2, 2), [0, 1])
    with pytest.raises(ValueError, match="batch_index must be ≥ 0; got -1"):
        initial_noise(1, (2, 4, 2, 2), [0, -1])


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_have_a_range(seed):
    for make in (lambda: randn(seed, (1,)), lambda: Gaussian(seed, (1,)), lambda: initial_noise(seed, (1, 1))):
        with pytest.raises(ValueError, match=f"seed must be 0 … 2\\*\\*64 - 1; got {seed}"):
            make()
