"""Whole KSampler runs against the reference's numbers, to 1e-4 of max |expected|, and its network calls."""

import pytest
import torch
from golden_models import Counted

from sigmafield.core.conditioning import Cond
from sigmafield.guidance.guider import DualGuider, Guider, PerpNegGuider
from sigmafield.recipes.ksampler import ksampler, ksampler_sigmas, sample_custom, window
from sigmafield.spatial.inpaint import differential, unchanged

TOLERANCE = {"dpm_adaptive": 1e-3, "uni_pc": 1e-3, "uni_pc_bh2": 1e-3}

# at σ = 4518 the reference's float32 cancels: its order of operations reproduces its numbers, float64 does not
ZSNR = {"euler": 5e-4, "dpm_2": 5e-3, "dpm_adaptive": 2e-2}


def compare(ours, expected, tolerance, what):
    scale = max(float(expected.abs().max()), 1e-12)
    error = float((ours - expected).abs().max()) / scale
    assert error <= tolerance, f"{what} differ by {error:.2e} of max |expected|"
    return error


def tally(work, name, net, case):
    """Count a run's network calls and rows, which must not exceed the reference's."""
    assert net.calls <= case["network_calls"]
    assert net.rows <= case["network_samples"]
    ours = net.calls, case["network_calls"], net.rows, case["network_samples"]
    for key in (f"engine {name}", "engine: all"):
        work[key] = [a + b for a, b in zip(work.get(key, [0] * 4), ours)]


def quick(case):
    """All but repetitions: a schedule, a part of it or a mask on more models or with more samplers."""
    if case["kind"] == "guider" or case["model"] == "sd15" or case["differential_diffusion_strength"] is not None:
        return True
    if case["mask"]:
        return case["sampler"] == "euler"
    if case["denoise"] < 1:
        return case["model"] == "flux" and case["sampler"] in ("euler", "uni_pc")
    part = case["start_step"] is not None or case["last_step"] is not None
    matrix = case["sampler"] == "euler" and case["scheduler"] != "normal" and not part
    return case["model"] == "sd3" or not matrix


@pytest.mark.quick(which=quick)
@pytest.mark.typed_elsewhere
def test_engine(engine_case, reference, worst, work):
    case = engine_case
    if case["kind"] == "guider":
        return guider(case, reference)
    net = Counted(case["model"], reference)
    positive, negative = ([net.cond(e, case) for e in case[key]] for key in ("positive", "negative"))
    latent = case.tensor(case["latent"])
    mask_of = unchanged
    if case["differential_diffusion_strength"] is not None:
        sigmas = ksampler_sigmas(
            net.sampling.levels, case["sampler"], case["scheduler"], case["steps"], case["denoise"]
        )
        sigmas = window(sigmas, case["start_step"], case["last_step"], case["force_full_denoise"])
        mask_of = differential(net.sampling.levels, sigmas, case["differential_diffusion_strength"])
    out = ksampler(
        Guider(net.model, positive, negative, case["cfg"]),
        net.sampling,
        net.format,
        latent,
        mask=case.tensor(case["mask"]) if case["mask"] else None,
        mask_of=mask_of,
        schedule=case["scheduler"],
        **{key: case[key] for key in (
            "seed", "steps", "sampler", "denoise", "start_step", "last_step", "force_full_denoise",
            "disable_noise", "batch_index",
        )},
    )  # fmt: skip
    tolerance = TOLERANCE.get(case["sampler"], 1e-4)
    if case["model"] == "vpred_zsnr":
        tolerance = ZSNR.get(case["sampler"], 1e-4)
    error = compare(out.samples, case.expected("samples"), tolerance, "samples")
    worst[f"engine {case['sampler']}"] = max(worst.get(f"engine {case['sampler']}", 0.0), error)
    if "x0" in case.row["out"]:
        compare(out.denoised, case.expected("x0"), tolerance, "denoised latents")
    tally(work, case["sampler"], net, case)


def guider(case, reference):
    net = Counted(case["model"], reference)
    P, M, N = (Cond(torch.full((1, 2, 3), case["conds"][key])) for key in ("positive", "middle", "negative"))
    p, model = case["params"], net.model
    made = {
        "basic": lambda: Guider(model, P),
        "dual": lambda: DualGuider(model, P, M, N, p["cfg_conds"], p["cfg_cond2_negative"]),
        "dual_nested": lambda: DualGuider(model, P, M, N, p["cfg_conds"], p["cfg_cond2_negative"], nested=True),
        "perpneg": lambda: PerpNegGuider(model, P, N, M, p["cfg"], p["neg_scale"]),
    }[case["guider"]]()
    noise = case.tensor(case["noise"])
    sigmas = case.tensor(case["sigmas"])
    out = sample_custom(
        made, net.sampling, net.format, case["sampler"], sigmas, torch.zeros_like(noise), noise, case["seed"]
    )
    compare(out.samples, case.expected("samples"), 1e-4, "samples")
