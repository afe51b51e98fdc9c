"""Nodes of noise levels: their formulas, written out again."""

import math

import pytest
import torch

from sigmafield.comfyui.nodes import schedules as nodes
from sigmafield.comfyui.nodes import sigmas as tools
from sigmafield.comfyui.nodes.loaders import checkpoint_loader_simple


@pytest.fixture(scope="module")
def model():
    return checkpoint_loader_simple("tiny")[0]


def close(made, expected, rtol=1e-5):
    torch.testing.assert_close(made.double(), torch.tensor(expected, dtype=torch.float64), rtol=rtol, atol=0)


def test_ranges():
    low, high, n = 0.0291675, 14.614642, 5
    u = [k / (n - 1) for k in range(n)]
    ends = [high ** (1 / 7), low ** (1 / 7)]
    close(nodes.karras_scheduler(n), [*((ends[0] + t * (ends[1] - ends[0])) ** 7 for t in u), 0.0])
    close(nodes.exponential_scheduler(n), [*(high * (low / high) ** t for t in u), 0.0])
    close(nodes.polyexponential_scheduler(n, rho=2.0), [*(low * (high / low) ** ((1 - t) ** 2) for t in u), 0.0])
    close(nodes.vp_scheduler(3), [
        *(math.sqrt(math.expm1(19.9 * t * t / 2 + 0.1 * t)) for t in (1, 0.5005, 0.001)), 0.0
    ], 1e-4)  # fmt: skip
    assert len(nodes.laplace_scheduler(n)) == n and nodes.laplace_scheduler(n)[-1] > 0


def test_basic_scheduler_keeps_the_last_levels_of_a_longer_schedule(model):
    whole = nodes.basic_scheduler(model, "karras", 12)
    assert nodes.basic_scheduler(model, "karras", 3, 0.25).equal(whole[-4:])
    assert len(nodes.basic_scheduler(model, "karras", 3, 0.0)) == 0
    assert len(nodes.basic_scheduler(model, "ddim_uniform", 7, 0.99)) == 8
    with pytest.raises(ValueError, match="denoise must be at least 3e-06 for 3 steps.*got 1e-10"):
        nodes.basic_scheduler(model, "simple", 3, 1e-10)
    beta = nodes.beta_sampling_scheduler(model, 6)
    assert beta.equal(nodes.basic_scheduler(model, "beta", 6))


def test_published_tables_are_cut_at_the_end():
    whole = nodes.align_your_steps_scheduler("SD1", 10)
    assert nodes.align_your_steps_scheduler("SD1", 10, 0.35).equal(whole[-5:])  # round(3.5) = 4 steps, half to even
    assert len(nodes.gits_scheduler(steps=6, denoise=0.0)) == 0
    assert nodes.optimal_steps_scheduler("FLUX", 10, 0.5)[-1] == 0


def test_tools(model):
    sigmas = torch.tensor([8.0, 4.0, 2.0, 0.0])
    assert [each.tolist() for each in tools.split_sigmas(sigmas, 1)] == [[8, 4], [4, 2, 0]]
    assert [each.tolist() for each in tools.split_sigmas_denoise(sigmas, 0.5)] == [[8, 4], [4, 2, 0]]
    assert [each.tolist() for each in tools.split_sigmas_denoise(sigmas, 0.0)] == [[], [0]]
    close(tools.flip_sigmas(sigmas), [1e-4, 2.0, 4.0, 8.0])
    assert tools.set_first_sigma(sigmas, 9.0).tolist() == [9, 4, 2, 0] and sigmas[0] == 8
    close(tools.extend_intermediate_sigmas(sigmas, 2, end_at_sigma=4.0, spacing="linear"), [8, 6, 4, 3, 2, 0.0])
    close(tools.extend_intermediate_sigmas(sigmas, 2, 5.0, 4.0, spacing="sine"),
          [8, 4, 4 - 2 * (1 - math.cos(math.pi / 4)), 2, 0.0])  # fmt: skip
    assert tools.manual_sigmas("14, 7.5 3;0").tolist() == [14, 7.5, 3, 0]
    levels = model.network.sampling.levels
    assert tools.sampling_percent_to_sigma(model, 1.0, True) == levels.sigma_min
    assert tools.sampling_percent_to_sigma(model, 1.0) == 0
    assert tools.sampling_percent_to_sigma(model, 0.0, True) == levels.sigma_max
