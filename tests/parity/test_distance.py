"""Distance samplers against the reference's numbers: whole runs, presets after other runs, weights.

Where slopes are nearly equal, rounding decides their weights. The tolerance of a run is therefore a few times the
change that the last bit of its first noise makes to the run itself, for the maximum and for the median, and at least
1e-5.
"""

import pytest
import torch
from golden_models import Counted

from sigmafield.guidance.guider import Guider
from sigmafield.noise.sources import initial_noise
from sigmafield.recipes.ksampler import ksampler_sigmas, sample_custom
from sigmafield.samplers.soft_median import combine

CONDS = (0.5, -0.3)
"""Positive and negative of every case."""

FLIPS, FACTOR, LEAST = 6, 4, 1e-5


def drawn(case, reference, sampler, steps, params, flip=0):
    """(samples in the VAE's scale, evaluations) of a run with this many steps; flip: other last bits of the noise."""
    net = Counted(case["model"], reference)
    sigmas = ksampler_sigmas(net.sampling.levels, sampler, case["scheduler"], steps)
    guider = Guider(net.model, *(net.cond({"value": value}, case) for value in CONDS), case["cfg"])
    noise = initial_noise(case["seed"], case["shape"])
    if flip:
        toward = torch.randn(noise.shape, generator=torch.Generator().manual_seed(flip)) * torch.inf
        noise = torch.nextafter(noise, toward)
    out = sample_custom(
        guider, net.sampling, net.format, sampler, sigmas, torch.zeros_like(noise), noise, case["seed"], **params
    )
    return out.samples, out.nfe


def sizes(difference, expected):
    """(largest, median) difference relative to the largest expected value."""
    relative = difference.abs() / expected.abs().max()
    return float(relative.max()), float(relative.median())


def quick(case):
    """One model per case: the flow where noise is added, the other elsewhere; presets where their code differs."""
    if case["kind"] == "distance_preset":
        return case["preset"] in ("Distance_n", "euler_cfg_pp_alt", "heun_cfg_pp")
    noisy = any("eta" in name for name in case.row.get("params", {}))
    return case["kind"] == "distance_weights" or (case["model"] == "sd3") == noisy


@pytest.mark.typed_elsewhere
@pytest.mark.quick(which=quick)
def test_distance(distance_case, reference, worst):
    case = distance_case
    if case["kind"] == "distance_weights":
        u = case.tensor(case["uncond"]) if case["uncond"] else None
        options = {key: case[key] for key in ("use_softmax", "use_slerp")}
        ours, expected = combine(list(case.tensor(case["directions"])), u, **options), case.expected("d")
        worst[case["id"]], _ = sizes(ours - expected, expected)
        assert worst[case["id"]] <= 1e-6
        return
    sampler, params = case.row.get("preset", "distance_c3").lower(), dict(case.row.get("params", {}))
    if "cfgpp" in params:
        params["cfgpp"] = "doubled" if params["cfgpp"] else "off"
    if "preset" in case.row:
        drawn(case, reference, sampler, 8, params)  # nothing of this run may remain in the run that is compared
    ours, nfe = drawn(case, reference, sampler, case["steps"], params)
    expected = case.expected("samples")
    assert nfe == case["nfe"]
    error = sizes(ours - expected, expected)
    worst[f"{case['id']} {params or sampler}"] = error[0]
    if error[0] <= LEAST:
        return
    allowed = (LEAST, LEAST)
    for flip in range(1, 1 + FLIPS):
        other, _ = drawn(case, reference, sampler, case["steps"], params, flip)
        allowed = tuple(max(a, FACTOR * size) for a, size in zip(allowed, sizes(other - ours, expected)))
        if error[0] <= allowed[0] and error[1] <= allowed[1]:
            return
    pytest.fail(f"samples differ by {error} (max, median) of max |expected|; {allowed} is rounding")
