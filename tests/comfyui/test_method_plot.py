"""The node that plots a sampler: what it shows is what the lab computes."""

import math

import pytest

from sigmafield.comfyui.context import Context, Folders
from sigmafield.comfyui.nodes.method_plot import method_plot
from sigmafield.comfyui.run import run_workflow
from sigmafield.comfyui.sampling import NamedSampler
from sigmafield.core.registry import Spec

pytest.importorskip("matplotlib")


def blue(image):
    """Where an image has the blue of a filled region, which is lighter than its edge."""
    red, green, other = image[0].unbind(-1)
    return (other - red > 0.15) & (other > 0.75) & (green > 0.6)


def diameter(h):
    """Pixels that the region of Euler's sampler is wide."""
    image = method_plot(NamedSampler(Spec("euler")), "stability", h)
    assert image.shape[0] == 1 and image.shape[-1] == 3 and image.min() >= 0 and image.max() <= 1
    columns = blue(image).any(0).nonzero()
    return float(columns.max() - columns.min())


def test_the_region_of_euler_is_a_disc_of_the_radius_of_its_formula():
    """|1 + (1 − e^−h)/h · z| ≤ 1."""
    radii = [h / (1 - math.exp(-h)) for h in (0.3, 1.5)]
    assert diameter(1.5) / diameter(0.3) == pytest.approx(radii[1] / radii[0], rel=0.03)


def test_in_a_workflow_with_the_parameters_of_a_sampler(tmp_path):
    prompt = {
        "1": {"class_type": "SamplerEulerAncestral", "inputs": {"eta": 1.0, "s_noise": 1.0}},
        "2": {"class_type": "MethodPlot", "inputs": {"sampler": ["1", 0], "plot_of": "convergence", "h": 0.3}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    made = run_workflow(prompt, Context(Folders(temp=tmp_path)))
    assert len(made.files) == 1 and made.values["2"][0][0].shape[-1] == 3


@pytest.mark.typed_elsewhere
def test_a_sampler_without_a_name_is_refused():
    with pytest.raises(ValueError, match="must be one of the table of samplers"):
        method_plot(object())
