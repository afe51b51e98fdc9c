"""Figures show the results they are given, and say what to install if matplotlib is missing."""

import sys

import pytest
import torch

from sigmafield.core.process import VE, Flow
from sigmafield.lab import Convergence, plot
from sigmafield.lab.latent_batch import similarity, statistics


def test_errors_are_drawn_with_their_slope():
    seen = Convergence("heun", VE(), (8, 16, 32), (16, 32, 64), (0.4, 0.1, 0.025))
    (axes,) = plot.errors([seen]).axes
    measured, line = axes.lines
    assert list(measured.get_ydata()) == [0.4, 0.1, 0.025]
    assert list(line.get_ydata()) == pytest.approx([0.4, 0.1, 0.025])
    assert measured.get_label() == "heun, VE: order 2.00"


def test_region_is_drawn_where_it_is():
    """A disc of radius 1 around −1, as for Euler's method, is drawn between −2 and 0."""
    box = (-3.0, 1.0, -2.0, 2.0)
    re, im = torch.meshgrid(torch.linspace(*box[:2], 81), torch.linspace(*box[2:], 81), indexing="xy")
    (axes,) = plot.region(((1 + re) ** 2 + im**2).sqrt(), box).axes
    edge = axes.collections[-1].get_paths()[0].get_extents()
    assert (edge.x0, edge.x1, edge.y0, edge.y1) == pytest.approx((-2, 0, -1, 1), abs=0.01)


def test_schedules_leave_out_what_has_no_place():
    """σ = 0 is left out on a logarithmic axis, and λ = ∞."""
    left, right = plot.schedule({"sd3": [1.0, 0.5, 0.0]}, {"sd3": Flow()}).axes
    assert list(left.lines[0].get_ydata()) == [1.0, 0.5]
    assert list(right.lines[0].get_xdata()) == [1] and list(right.lines[0].get_ydata()) == [0.0]
    (axes,) = plot.noise_levels({"a": [3.0, 2.0, 0.0], "b": [3.0, 1.0, 0.5]}).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[3.0, 2.0], [3.0, 1.0, 0.5]]


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)  # which makes importing it fail
    with pytest.raises(ImportError) as caught:
        plot.noise_levels({})
    assert str(caught.value) == 'drawing needs matplotlib: pip install "sigmafield[lab]"'


def test_batches_of_latents_are_drawn():
    """Normal latents pass the test for normality and uniform ones do not; a batch is similar to itself."""
    generator = torch.Generator().manual_seed(4)
    normal = torch.randn(3, 4, 8, 8, generator=generator) * 2 + 1
    uniform = torch.rand(3, 4, 8, 8, generator=generator)
    seen = statistics(torch.cat([normal, uniform]))
    assert min(seen.p[:3]) > 0.05 > 1e-3 > max(seen.p[3:])
    assert seen.std == pytest.approx(torch.cat([normal, uniform]).flatten(1).std(1, correction=0).tolist(), rel=1e-5)
    left, middle, right = plot.latent_statistics(seen).axes
    assert list(left.lines[0].get_ydata()) == seen.p and left.lines[1].get_ydata()[0] == 0.05
    assert list(middle.lines[0].get_ydata()) == seen.mean and list(right.lines[0].get_ydata()) == seen.std
    cosines = similarity(normal, -normal)
    torch.testing.assert_close(cosines.diagonal(), -torch.ones(3, dtype=torch.float64))
    axes = plot.latent_similarity(cosines).axes[0]
    assert axes.images[0].get_array().tolist() == cosines.tolist()
    with pytest.raises(ValueError, match="batches must be of one shape"):
        similarity(normal, uniform[:2])
