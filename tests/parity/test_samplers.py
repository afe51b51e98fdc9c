"""Every sampler against the reference's numbers; float32 to 1e-4 and float64 to 1e-9 of max |expected|."""

import pytest
import torch

from sigmafield.core.grid import Grid
from sigmafield.core.process import VE, Flow
from sigmafield.core.protocols import Pred
from sigmafield.noise.policy import default_noise
from sigmafield.parameterization.timesteps import betas, discrete, shifted_flow
from sigmafield.runs.run import Run, finish
from sigmafield.samplers import SAMPLERS

# float32 error estimates feed back into the step sizes of these
TOLERANCE_F32 = {"dpm_adaptive": 1e-3}
# the reference itself works in float32 inside these
TOLERANCE_F64 = {"deis": 1e-5, "er_sde": 1e-5}
RENAMED = {"solver_type": "solver"}
PROCESSES = {False: (VE(14.614642), discrete(betas())), True: (Flow(shift=3.0), shifted_flow(3.0))}


def run(case, reference):
    """(final state, sigmas that the model saw) of one case."""
    sigmas_seen = []

    def denoise(x, sigma, ctx):
        sigmas_seen.append(float(sigma))
        conds = torch.cat([torch.as_tensor(case[part], dtype=x.dtype).expand(len(x)) for part in ("cond", "uncond")])
        c, u = reference.denoise(torch.cat([x, x]), sigma.to(x.dtype), conds, case["flow"]).chunk(2)
        return Pred(u + case["cfg"] * (c - u), c, u)

    x = case.tensor(case["x"])
    process, levels = PROCESSES[case["flow"]]
    grid = Grid(case.tensor(case["sigmas"]), process, clock=levels.sigma_at)
    sampler = SAMPLERS.lookup(case["sampler"])
    params = {RENAMED.get(name, name): value for name, value in case["params"].items()}
    params = {name: type(sampler.defaults[name])(value) for name, value in params.items()}  # JSON's 1 for 1.0
    run = Run(denoise, sampler, grid, default_noise(sampler.noise, case["seed"], grid, x), params)
    return finish(run, x), sigmas_seen


def compare(case, reference, tolerance, worst):
    state, sigmas_seen = run(case, reference)
    expected = case.expected("x")
    error = float((state.x - expected).abs().max() / expected.abs().max())
    key = f"{case.file} {case['sampler']}"
    worst[key] = max(worst.get(key, 0.0), error)
    assert error <= tolerance, f"x differs by {error:.2e} of max |expected|"
    assert state.nfe == case["nfe"] == len(sigmas_seen)
    assert sigmas_seen == pytest.approx(case["model_sigmas"], rel=max(10 * tolerance, 1e-6), abs=2e-6)
    if not state.nfe:
        return
    denoised = case.expected("last_denoised")
    assert float((state.pred.x0 - denoised).abs().max()) <= tolerance * float(denoised.abs().max())


def quick(case):
    """Whole runs that float64 leaves out; in one process a tail that ends above 0, videos, an early stop and one step.

    Whole runs of images in both processes, with all parameters, are those of float64.
    """
    video = len(case["x"].split("/")[-2].split("x")) == 5
    kind = "video" if video else case["grid"]
    only_here = case["sampler"].startswith("uni_pc") and not case["params"]
    return (kind == "full" and only_here) or kind in ({"stop", "one"} if case["flow"] else {"tail", "video"})


@pytest.mark.quick(which=quick)
@pytest.mark.typed_elsewhere
def test_float32(samplers_case, reference, worst):
    torch.manual_seed(12345)  # nothing may depend on the global generator
    compare(samplers_case, reference, TOLERANCE_F32.get(samplers_case["sampler"], 1e-4), worst)


def test_float64(samplers_f64_case, reference, worst):
    compare(samplers_f64_case, reference, TOLERANCE_F64.get(samplers_f64_case["sampler"], 1e-9), worst)
