"""Schedules, their edits and parameterizations against the reference's numbers, to 1e-5 of each value."""

import math

import torch
from golden_models import FAMILIES

from sigmafield import schedules
from sigmafield.parameterization.families import family
from sigmafield.parameterization.prediction import (
    Sampling,
    cascade_sampling,
    continuous_edm_sampling,
    continuous_v_sampling,
    discrete_sampling,
    flux_sampling,
)
from sigmafield.parameterization.timesteps import betas, resolution_shift
from sigmafield.schedules import SCHEDULES

NAMES = {"v_prediction": "v", "edm_playground_v2.5": "edm"}


def patched(node, base, inputs) -> Sampling:
    """The sampling that a ModelSampling… node puts on a model."""
    prediction = NAMES.get(inputs.get("sampling"), inputs.get("sampling"))
    if node == "ModelSamplingDiscrete":
        return discrete_sampling(prediction, betas(), inputs["zsnr"])
    if node == "ModelSamplingContinuousEDM":
        data = 0.5 if prediction == "edm" else 1.0
        return continuous_edm_sampling(prediction, inputs["sigma_min"], inputs["sigma_max"], data)
    if node == "ModelSamplingContinuousV":
        return continuous_v_sampling(inputs["sigma_min"], inputs["sigma_max"])
    if node == "ModelSamplingStableCascade":
        return cascade_sampling(inputs["shift"])
    if node in ("ModelSamplingSD3", "ModelSamplingAuraFlow"):  # both keep the base's multiplier
        return family(FAMILIES[base]).sampling(shift=inputs["shift"])
    assert node == "ModelSamplingFlux"
    ends = (256.0, inputs["base_shift"]), (4096.0, inputs["max_shift"])
    return flux_sampling(resolution_shift(inputs["width"] * inputs["height"] / 256, *ends))


def sampling_of(case):
    return patched(**case["patch"]) if case.row.get("patch") else family(FAMILIES[case["model"]]).sampling()


def close(ours, expected):
    torch.testing.assert_close(torch.as_tensor(ours).float(), expected.float(), rtol=1e-5, atol=1e-6, equal_nan=True)


def test_schedules(schedules_cases):
    for case in schedules_cases:
        try:
            {"node": node, "scheduler": named, "parameterization": parameterization}[case["kind"]](case)
        except Exception as error:
            raise AssertionError(f"{case['id']}: {error}") from error


def named(case):
    ours = SCHEDULES.lookup(case["scheduler"])(case["steps"], sampling_of(case).levels)
    expected = case.expected("sigmas")
    if case["scheduler"] == "kl_optimal" and case["steps"] == 1:
        assert expected[0].isnan()  # 0/0 in the reference; ours begins at the largest level
        expected = torch.stack([torch.tensor(sampling_of(case).levels.sigma_max), expected[1]])
    close(ours, expected)


def parameterization(case):
    """The reference was evaluated at probe[2], with a line from -1 to 1 as noise, latent, network input and output."""
    sampling, probe = sampling_of(case), torch.tensor(case["probe"], dtype=torch.float64)
    levels, process = sampling.levels, sampling.process
    close([levels.sigma_min, levels.sigma_max], case.expected("sigma_min_max"))
    close([levels.sigma_at(p) for p in case["percents"]], case.expected("percent_to_sigma"))
    timestep = case.expected("timestep")  # float32 arc cosines near 1 lose digits of small times
    torch.testing.assert_close(
        levels.timestep(probe).float(), timestep.float(), rtol=0, atol=1e-5 * float(timestep.max())
    )
    close(levels.sigma(timestep), case.expected("sigma_of_timestep"))
    sigma, line = probe[2], torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(1, 1, 2, 4)
    close(process.start(sigma, line, -0.5 * line), case.expected("noise_scaling"))
    close(process.finish(sigma, line), case.expected("inverse"))
    c_in, c_skip, c_out = sampling.prediction(sigma)
    close(c_in * line, case.expected("input"))
    close(c_skip * -0.5 * line + c_out * line, case.expected("denoised"))


def table(name):
    def make(levels, steps, denoise, **params):
        return schedules.split_denoise(schedules.SCHEDULES[name](steps, levels, **params), denoise)[1]

    return make


def plain(name):
    return lambda levels, steps, **params: schedules.SCHEDULES[name](steps, levels, **params)


def basic(levels, scheduler, steps, denoise):
    """BasicScheduler: its threshold of `denoise` is 1, KSampler's 0.9999."""
    total = int(steps / denoise) if denoise < 1 else steps
    return SCHEDULES.lookup(scheduler)(total, levels)[-(steps + 1) :] if denoise > 0 else torch.empty(0)


SCHEDULERS = {
    "BasicScheduler": basic,
    "KarrasScheduler": plain("karras"),
    "ExponentialScheduler": plain("exponential"),
    "PolyexponentialScheduler": plain("polyexponential"),
    "LaplaceScheduler": plain("laplace"),
    "VPScheduler": plain("vp"),
    "SDTurboScheduler": plain("sd_turbo"),
    "BetaSamplingScheduler": plain("beta"),
    "AlignYourStepsScheduler": lambda levels, model_type, **p: table("align_your_steps")(levels, model=model_type, **p),
    "OptimalStepsScheduler": lambda levels, model_type, **p: table("optimal_steps")(levels, model=model_type, **p),
    "GITSScheduler": table("gits"),
    "LTXVScheduler": lambda levels, latent, **p: plain("ltxv")(levels, **p),
    "Flux2Scheduler": plain("flux2"),
}


def extend(sigmas, steps, start_at_sigma, end_at_sigma, spacing):
    start = math.inf if start_at_sigma < 0 else start_at_sigma
    return schedules.extend_intermediate(sigmas, steps, start, end_at_sigma, spacing)


TOOLS = {
    "SplitSigmas": schedules.split,
    "SplitSigmasDenoise": schedules.split_denoise,
    "FlipSigmas": schedules.flip,
    "SetFirstSigma": schedules.set_first,
    "ExtendIntermediateSigmas": extend,
}


def node(case):
    name, inputs = case["node"], case["inputs"]
    flow = name in ("OptimalStepsScheduler", "LTXVScheduler", "Flux2Scheduler")
    levels = (sampling_of(case) if case["model"] else family("SD3" if flow else "SD15").sampling()).levels
    if name in SCHEDULERS:
        out = [SCHEDULERS[name](levels, **inputs)]
    elif name in TOOLS:
        sigmas = case.tensor(case["sigmas"]).double()
        kept = sigmas.clone()
        out = TOOLS[name](sigmas, **inputs)
        out = out if isinstance(out, tuple) else [out]
        assert torch.equal(sigmas, kept), "the schedule that was given is changed"
    elif name == "ManualSigmas":
        out = [schedules.manual(inputs["sigmas"])]
    else:
        assert name == "SamplingPercentToSigma"
        actual = inputs["return_actual_sigma"]
        percent = inputs["sampling_percent"]
        out = [schedules.sigma_at(levels, percent) if actual else levels.sigma_at(percent)]
    for k, ours in enumerate(out):
        close(ours, case.expected(f"o{k}"))
    assert len(out) == len(case["out"])
