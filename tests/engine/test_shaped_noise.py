"""Shaped noise: the filters are linear, so their covariance is known exactly; properties of the source are kept."""

import math
import re
from functools import partial
from itertools import pairwise

import pytest
import torch
from laws import grid, same

from sigmafield.core.process import VE
from sigmafield.models.analytic import Mixture
from sigmafield.noise.brownian import Brownian
from sigmafield.noise.sources import Gaussian, Keyed, randn
from sigmafield.noise.spectrum import Shaped, coloured, offset, perlin, pyramid
from sigmafield.runs.run import Run, iterate
from sigmafield.samplers import SAMPLERS

FILTERS = {
    "pink": partial(coloured, exponent=1.0),
    "brown": partial(coloured, exponent=2.0),
    "blue": partial(coloured, exponent=-1.0),
    "pyramid": partial(pyramid, discount=0.8),
    "offset": partial(offset, strength=0.2),
    "perlin": partial(perlin, cell=4),
}
SPACES = [(16,), (12, 10), (1, 8, 9), (4, 6, 8)]
every_filter = pytest.mark.parametrize("shape", FILTERS.values(), ids=FILTERS)


def matrix(shape, space):
    """M of ξ' = M ξ, [pixels, pixels]: the filter's output for unit vectors."""
    n = math.prod(space)
    return shape(torch.eye(n, dtype=torch.float64).reshape(n, 1, *space)).reshape(n, n).T


def power(shape, space):
    """Exact power of every mode, white noise having 1: diagonal of the covariance in the Fourier basis."""
    n = math.prod(space)
    modes = torch.fft.fftn(torch.eye(n, dtype=torch.complex128).reshape(n, *space), dim=tuple(range(1, len(space) + 1)))
    modes = modes.reshape(n, n) / math.sqrt(n)
    return (modes.T @ matrix(shape, space).to(modes)).abs().square().sum(1).reshape(space)


def frequency(space):
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in space]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()


@every_filter
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_variance_is_one(shape, space, request):
    """Exactly 1 on average over the pixels, and at every pixel for all noises except Perlin noise."""
    variance = matrix(shape, space).square().sum(1)
    torch.testing.assert_close(variance.mean(), torch.ones_like(variance.mean()))
    if shape is not FILTERS["perlin"]:
        torch.testing.assert_close(variance, torch.ones_like(variance))


@every_filter
def test_variance_of_a_sample_is_one(shape):
    """64 latents drawn: within five standard errors of 1, which for a covariance C are √(2 Σ C²)/pixels each."""
    space = (16, 16)
    covariance = (m := matrix(shape, space)) @ m.T
    error = math.sqrt(2 * covariance.square().sum() / 64) / 256
    xi = shape(randn(3, (16, 4, *space)))
    assert abs(float(xi.square().mean()) - 1) < 5 * error
    assert error < 0.1


@every_filter
def test_filters_are_linear_and_keep_channels_apart(shape):
    a, b = randn(1, (2, 3, 8, 12), torch.float64), randn(2, (2, 3, 8, 12), torch.float64)
    torch.testing.assert_close(shape(2 * a - 3 * b), 2 * shape(a) - 3 * shape(b))
    other = a.clone()
    other[1, 2] += 1
    same = shape(other) == shape(a)
    assert same[0].all() and same[1, :2].all() and not same[1, 2].all()
    assert torch.equal(a, randn(1, (2, 3, 8, 12), torch.float64))  # and leave their argument unchanged


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, -1.0, 0.7])
@pytest.mark.parametrize("space", [(64,), (24, 15), (4, 8, 9)], ids=str)
def test_coloured_noise_has_its_slope(exponent, space):
    f, p = frequency(space), power(partial(coloured, exponent=exponent), space)
    x, y = f[f > 0].log(), p[f > 0].log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert float(slope) == pytest.approx(-exponent, abs=1e-6)
    assert float((y + exponent * x).std()) < 1e-6  # a power law, and not only on average
    assert float(p[f == 0]) == pytest.approx(float(p[f == f[f > 0].min()].mean()))


def test_coloured_noise_drawn_has_its_slope():
    """Periodogram of 400 fields of pink noise in float32: a line through 30 rings."""
    xi = coloured(randn(5, (100, 4, 64, 64)), 1.0)
    p, f = torch.fft.fftn(xi, dim=(2, 3)).abs().square().mean((0, 1)), frequency((64, 64))
    rings = [(f * 64).round() == k for k in range(1, 31)]
    x, y = (torch.stack([v[ring].double().mean().log() for ring in rings]) for v in (f, p))
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert float(slope) == pytest.approx(-1, abs=0.03)


def test_pyramid_has_more_power_the_lower_the_frequency():
    space = (16, 16)
    f, p = frequency(space), power(pyramid, space)
    along = p[0, :9]
    assert (along[:-1] >= along[1:] - 1e-9).all()
    assert float(p[f < 0.1].mean()) > 5 > 1 > float(p[f > 0.5].mean())
    white = power(partial(pyramid, discount=0.0), space)
    torch.testing.assert_close(white, torch.ones_like(white))
    # each level has unit variance at half the resolution, so the added share is known
    shares = [0.8 ** (2 * k) for k in range(4)]
    assert float(p[15, 8]) == pytest.approx(1 / sum(shares))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_offset_is_white_noise_and_one_number(space):
    """The covariance is that of (ξ + s o)/√(1 + s²): (I + s²)/(1 + s²)."""
    n, s = math.prod(space), 0.3
    m = matrix(partial(offset, strength=s), space)
    torch.testing.assert_close(m @ m.T, (torch.eye(n).double() + s**2) / (1 + s**2))
    assert float((m @ m.T).mean()) == pytest.approx((1 / n + s**2) / (1 + s**2))  # variance of the channel's mean
    assert torch.equal(offset(randn(1, (1, 2, *space)), 0.0), randn(1, (1, 2, *space)))


@pytest.mark.parametrize("space, cell", [((16, 16), 4), ((16, 24), 4), ((64,), 8)], ids=str)
def test_perlin_is_band_limited(space, cell):
    """Much of the power is around 1/cell and hardly any above 2/cell, where white noise has its share of modes."""
    f, p = frequency(space), power(partial(perlin, cell=cell), space)
    total = p.sum()
    assert float(p[f > 2 / cell].sum() / total) < 0.03
    assert float(p[(f > 0.5 / cell) & (f < 2 / cell)].sum() / total) > 0.4
    assert float((f > 2 / cell).double().mean()) > 0.2


@every_filter
def test_a_sample_does_not_depend_on_its_batch(shape):
    g, dims = grid(VE()), (8, 12)
    whole = Shaped(Keyed([5, 6, 7], (3, 4, *dims)), shape)
    alone = Shaped(Keyed([6], (1, 4, *dims)), shape)
    for i in (4, 2):
        assert torch.equal(whole(g.span(i))[1], alone(g.span(i))[0])
        whole.set_state(None)
        alone.set_state(None)


@every_filter
@pytest.mark.parametrize("kind", ["keyed", "gaussian", "brownian"])
def test_runs_resume_at_every_step(shape, kind):
    g, dims = grid(VE(), n=4), (2, 3, 8, 8)
    x = 14.6 * randn(0, dims)

    def run():
        source = {
            "keyed": lambda: Keyed([1, 2], dims),
            "gaussian": lambda: Gaussian(1, dims),
            "brownian": lambda: Brownian(1, g, dims),
        }[kind]()
        return Run(Mixture(), SAMPLERS.lookup("dpmpp_sde"), g, Shaped(source, shape))

    states = list(iterate(run(), x))
    for state, following in pairwise(states):
        assert same(run().step(state), following)


def test_filtered_brownian_noise_is_a_path():
    """Increments over adjacent intervals add up, because the filter is linear."""
    g = grid(VE(), n=8)
    source = Shaped(Brownian(3, g, (1, 2, 8, 8), torch.float64), FILTERS["pink"])
    first, second = g.span(2).split(0.5)
    parts = sum(source(p) * (p.sigma - p.sigma_next) ** 0.5 for p in (first, second))
    whole = g.span(2)
    torch.testing.assert_close(parts, source(whole) * (whole.sigma - whole.sigma_next) ** 0.5)


@pytest.mark.parametrize(
    "shape, message",
    [
        (partial(coloured, exponent=math.inf), "exponent must be a finite number; got inf"),
        (partial(pyramid, discount=-0.5), "discount must be a finite number ≥ 0; got -0.5"),
        (partial(offset, strength=-1.0), "strength must be a finite number ≥ 0; got -1.0"),
        (partial(perlin, cell=0), "cell must be ≥ 1; got 0"),
        (partial(perlin, cell=1), "cell 1 needs 162 slopes, but (8, 8) has 64 numbers: enlarge it"),
    ],
)
def test_parameters_have_ranges(shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        shape(torch.zeros(1, 1, 8, 8))


@every_filter
def test_nothing_in_nothing_out(shape):
    assert shape(torch.zeros(0, 4, 16, 16)).shape == (0, 4, 16, 16)
