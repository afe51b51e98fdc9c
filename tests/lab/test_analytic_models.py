"""Analytic models: predictions, samples, moments and solutions agree with each other."""

import numpy as np
import pytest
import torch

from sigmafield.lab.problems import PROBLEMS, components, law_of, model_name
from sigmafield.models.analytic import GaussianMixture


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("sigma", [0.1, 1.5])
def test_the_prediction_is_the_posterior_mean(name, sigma):
    """D minimises E|D(x) − x0|²: no multiple of it, of x or of 1 added to it helps, within the sample's error."""
    law, generator = PROBLEMS[name](), torch.Generator().manual_seed(3)
    x0 = law.drawn(3000, 0.0, generator)
    x = x0 + sigma * torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    D = law(x, torch.tensor(sigma).double()).x0
    for other in (D, x, torch.ones_like(x)):
        products = ((x0 - D) * other).flatten(1).sum(1)
        assert abs(float(products.mean())) < 5 * float(products.std()) / len(x) ** 0.5


@pytest.mark.parametrize("name", PROBLEMS)
def test_samples_have_the_moments_of_the_marginal(name):
    law, n = PROBLEMS[name](), 3000
    for sigma in (0.0, 2.0):
        x = law.drawn(n, sigma, torch.Generator().manual_seed(1)).flatten(1)
        mean, covariance = law.moments(sigma)
        scale = covariance.diagonal().max().sqrt()
        assert (x.mean(0) - mean).abs().max() < 5 * scale / n**0.5
        assert (x.T.cov() - covariance).abs().max() < 8 * scale**2 / n**0.5


def test_one_gaussian_is_solved_exactly():
    """dx/dσ = (x − D)/σ along `exact`, by central differences."""
    law, sigma, eps = PROBLEMS["gaussian"](), torch.tensor(0.7).double(), 1e-5
    x = law.drawn(5, 1.0, torch.Generator().manual_seed(0))
    at, below, above = (law.exact(x, torch.tensor(1.0).double(), sigma + shift) for shift in (0, -eps, eps))
    assert torch.allclose((above - below) / (2 * eps), (at - law(at, sigma).x0) / sigma, atol=1e-8)
    with pytest.raises(ValueError, match="only one Gaussian has an exact solution; got 3"):
        PROBLEMS["mixture"]().exact(torch.zeros(1, 2, 1, 1).double(), sigma, sigma)


def test_prompts_name_components():
    law = PROBLEMS["mixture"]()
    assert components(law, "").tolist() == law.weights.tolist()
    assert components(law, "0, 2").tolist() == pytest.approx([0.3 / 0.55, 0, 0.25 / 0.55])
    with pytest.raises(ValueError, match="numbers of components below 3, such as 0,1; got '3'"):
        components(law, "3")


def test_a_data_set_is_a_law(tmp_path):
    """Its density estimate has the mean of the points, and their covariance plus that of the bandwidth."""
    points = np.random.default_rng(0).normal(size=(40, 2)) @ np.array([[1.0, 0.4], [0.0, 0.7]]) + [0.5, -1]
    np.save(tmp_path / "points.npy", points)
    law = law_of(model_name(str(tmp_path / "points.npy")))
    assert law is not None and law.shape == (2, 1, 1)
    mean, covariance = law.moments(0.0)
    assert mean.numpy() == pytest.approx(points.mean(0))
    bandwidth = np.diag(points.std(0, ddof=1) * (4 / (4 * 40)) ** (1 / 6)) ** 2
    assert covariance.numpy() == pytest.approx(np.cov(points.T, ddof=0) + bandwidth)


@pytest.mark.parametrize(
    "points, message",
    [
        (None, "there is no file"),
        (np.zeros(3), r"must have numbers \[points, coordinates\], from 2 to 4096 points; got \(3,\)"),
        (np.zeros((1, 2)), "must have numbers"),
        (np.array([["a"], ["b"]]), "must have numbers"),
        (np.array([[1.0, 2.0], [1.0, 3.0]]), "no coordinate is the same"),
        (np.array([[1.0], [np.nan]]), "finite numbers"),
        (np.array([[1e300], [-1e300]]), "finite numbers"),
    ],
)
def test_files_that_are_not_data_sets(tmp_path, points, message):
    if points is not None:
        np.save(tmp_path / "points.npy", points)
    with pytest.raises(ValueError, match=message):
        law_of(model_name(str(tmp_path / "points.npy")))


def test_damaged_data_sets(tmp_path):
    np.save(path := tmp_path / "points.npy", np.zeros((4, 2)))
    whole = path.read_bytes()
    header = whole.replace(b"(4, 2), }", b"(4, 2), {")
    assert header != whole
    for damaged in (b"", whole[:-1], header, b"PK\x03\x04" + whole):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"points\.npy cannot be read as an array"):
            law_of(model_name(str(path)))


def test_refusals():
    with pytest.raises(ValueError, match="unknown analytic model 'mixtur'; did you mean mixture"):
        law_of("analytic:mixtur")
    one = torch.ones(1, 2).double()
    for bad, message in (
        ({"deviations": -one}, "above 0"), ({"shape": (3, 1, 1)}, "a shape of 2 numbers"),
        ({"weights": torch.tensor([0.5]).double()}, "add up to 1"),
    ):  # fmt: skip
        given = {"means": one, "deviations": one, "weights": torch.ones(1).double(), "shape": (2, 1, 1), **bad}
        with pytest.raises(ValueError, match=message):
            GaussianMixture(**given)
