"""Named schedules and parameterisations against the reference's numbers, to 1e-5 of each value."""

import pytest
import torch

from sigmafield import param
from sigmafield.schedules import SCHEDULES, lookup

SD = param.betas()
SAMPLINGS = {
    "sd15": lambda: param.discrete_sampling("eps", SD),
    "sdxl": lambda: param.discrete_sampling("eps", SD),
    "vpred": lambda: param.discrete_sampling("v", SD),
    "vpred_zsnr": lambda: param.discrete_sampling("v", SD, zsnr=True),
    "sd3": lambda: param.flow_sampling(3.0, 1000.0),
    "aura": lambda: param.flow_sampling(1.73, 1.0),
}


def sampling_of(case):
    if case["model"] not in SAMPLINGS or case["patch"]:
        pytest.skip(f"the sampling of {case['model']} with patch {case['patch']} is not built yet")
    return SAMPLINGS[case["model"]]()


def close(ours, expected):
    torch.testing.assert_close(ours.float(), expected.float(), rtol=1e-5, atol=1e-6)


def test_schedules(schedules_case):
    case = schedules_case
    if case["kind"] == "node":
        pytest.skip(f"{case['node']} is not built yet")
    sampling = sampling_of(case)
    if case["kind"] == "parameterization":
        return parameterization(case, sampling)
    if case["scheduler"] not in SCHEDULES:
        pytest.skip(f"the schedule {case['scheduler']} is not built yet")
    close(lookup(case["scheduler"])(case["steps"], sampling.levels), case.expected("sigmas"))


def parameterization(case, sampling):
    levels, probe = sampling.levels, torch.tensor(case["probe"], dtype=torch.float64)
    close(torch.tensor([levels.sigma_min, levels.sigma_max]), case.expected("sigma_min_max"))
    close(torch.tensor([levels.sigma_at(p) for p in case["percents"]]), case.expected("percent_to_sigma"))
    close(levels.timestep(probe), case.expected("timestep"))
