"""The names of samplers and schedules that ComfyUI's nodes offer, in its order."""

from __future__ import annotations

from typing import Annotated

from sigmafield.comfyui.sockets import Choices

SAMPLER_NAMES = (
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0",
    "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm",
    "lcm", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde", "seeds_2",
    "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2",
)  # fmt: skip
SCHEDULER_NAMES = (
    "simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic",
    "kl_optimal",
)  # fmt: skip

DISTANCE = {
    "Distance": "distance",
    "Distance_n": "distance_n",
    "Distance_p": "distance_p",
    "euler_cfg_pp_alt": "euler_cfg_pp_alt",
    "heun_cfg_pp": "heun_cfg_pp",
}
"""Samplers that the distance sampler's pack adds to the list, with our names."""

SamplerName = Annotated[str, Choices(lambda folders: (*SAMPLER_NAMES, *DISTANCE))]
SchedulerName = Annotated[str, Choices(lambda folders: SCHEDULER_NAMES)]


def our_name(sampler: str) -> str:
    """Our name of a sampler in ComfyUI's list."""
    return DISTANCE.get(sampler, sampler)
