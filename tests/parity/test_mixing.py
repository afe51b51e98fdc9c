"""Iterative mixing against the reference's numbers: schedules, blends, noised latents to 1e-6, whole runs to 1e-5."""

import torch
from golden_models import Counted

from sigmafield.comfyui.iterative_mixing import mixing_sampler
from sigmafield.comfyui.mixing_sampler import MixingSampler
from sigmafield.core.process import VE
from sigmafield.guidance.guider import Guider
from sigmafield.recipes.ksampler import ksampler_sigmas
from sigmafield.runs.blends import BLENDS, blending_weights
from sigmafield.runs.level_noise import StreamLevels, noised

CONDS = (0.5, -0.3)
"""Positive and negative of every run."""


def test_mixing(mixing_case, reference, worst):
    case = mixing_case
    ours, name = KINDS[case["kind"]](case, reference)
    expected = case.expected(name)
    error = float((ours - expected).abs().max() / expected.abs().max())
    worst[f"{case['id']} {case['kind']} {case.row.get('sampler', '')}"] = error
    assert error <= (1e-5 if case["kind"] == "mixing" else 1e-6), f"{name} differ by {error:.2e} of max |expected|"


def schedule(case, reference):
    p = case["params"]
    c = blending_weights(
        case["schedule"], case["steps"], alpha_1=case["alpha_1"], start=p["start_blending_at_step"],
        stop=p["stop_blending_at_step"], clamp=p["clamp_blending_at_pct"], least=p["blend_min"], most=p["blend_max"],
    )  # fmt: skip
    return torch.tensor(c), "c1"


def function(case, reference):
    return BLENDS[case["function"]](case.tensor(case["a"]), case.tensor(case["b"]), case["weight"]), "out"


def levels(case, reference):
    x, sigmas = case.tensor(case["x"]), case.tensor(case["sigmas"])
    noise = StreamLevels(case["seed"], x.shape, [len(sigmas)])
    return torch.cat([noised(x, sigma.double(), noise(0, j), VE()) for j, sigma in enumerate(sigmas)]), "z"


def run(case, reference):
    net = Counted(case["model"], reference)
    sigmas = ksampler_sigmas(net.sampling.levels, "euler", case["scheduler"], case["steps"])
    guider = Guider(net.model, *(net.cond({"value": value}, case) for value in CONDS), case["cfg"])
    out = mixing_sampler(
        guider, net.sampling, net.format, sigmas, case.tensor(case["latent"]),
        MixingSampler(sampler=case["sampler"], **case["params"]), seed=case["seed"],
    )  # fmt: skip
    assert out.nfe == case["nfe"]
    return out.samples, "samples"


KINDS = {"blending_schedule": schedule, "blending_function": function, "noised_latents": levels, "mixing": run}
