"""Which of ComfyUI's nodes stand for a recipe's samplers, schedules and guidance mods, and by which inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sigmafield.comfyui.workflow.classes import inputs_of, known_classes

PLAIN_SCHEDULES = (
    "simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic",
    "kl_optimal",
)  # fmt: skip
"""Schedules that KSampler and BasicScheduler name."""


@dataclass(frozen=True)
class Counterpart:
    """A node that stands for a row of a registry.

    Args:
        kind: The node's class.
        inputs: Names of the node's inputs by the row's parameters.
        fixed: Values of further inputs, which the row implies.
        of_model: Whether the node takes the model.
    """

    kind: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    of_model: bool = False


def _same(*names: str, **others: str) -> dict[str, str]:
    """Inputs that are called like the parameters, and those that are called otherwise, as parameter=input."""
    return {**{name: name for name in names}, **others}


_DPM_ADAPTIVE = (
    "order", "rtol", "atol", "h_init", "pcoeff", "icoeff", "dcoeff", "accept_safety", "eta", "s_noise",
)  # fmt: skip
_SA = (
    "eta", "sde_start_percent", "sde_end_percent", "s_noise", "predictor_order", "corrector_order", "use_pece",
    "simple_order_2",
)  # fmt: skip
_CPU, _GPU = {"noise_device": "cpu"}, {"noise_device": "gpu"}
_NOISY = _same("eta", "s_noise")

SAMPLERS: Mapping[str, Counterpart] = {
    "euler_ancestral": Counterpart("SamplerEulerAncestral", _NOISY),
    "euler_ancestral_cfg_pp": Counterpart("SamplerEulerAncestralCFGPP", _NOISY),
    "euler_cfg_pp": Counterpart("SamplerEulerCFGpp", fixed={"version": "regular"}),
    "euler_pp": Counterpart("SamplerEulerCFGpp", fixed={"version": "alternative"}),
    "lms": Counterpart("SamplerLMS", _same("order")),
    "dpm_adaptive": Counterpart("SamplerDPMAdaptative", _same(*_DPM_ADAPTIVE)),
    "dpmpp_2s_ancestral": Counterpart("SamplerDPMPP_2S_Ancestral", _NOISY),
    "dpmpp_sde": Counterpart("SamplerDPMPP_SDE", _same("eta", "s_noise", "r"), _CPU),
    "dpmpp_sde_gpu": Counterpart("SamplerDPMPP_SDE", _same("eta", "s_noise", "r"), _GPU),
    "dpmpp_2m_sde": Counterpart("SamplerDPMPP_2M_SDE", _same("eta", "s_noise", solver="solver_type"), _CPU),
    "dpmpp_2m_sde_gpu": Counterpart("SamplerDPMPP_2M_SDE", _same("eta", "s_noise", solver="solver_type"), _GPU),
    "dpmpp_3m_sde": Counterpart("SamplerDPMPP_3M_SDE", _NOISY, _CPU),
    "dpmpp_3m_sde_gpu": Counterpart("SamplerDPMPP_3M_SDE", _NOISY, _GPU),
    "seeds_2": Counterpart("SamplerSEEDS2", _same("eta", "s_noise", "r", solver="solver_type")),
    "sa_solver": Counterpart("SamplerSASolver", _same(*_SA), of_model=True),
    "er_sde": Counterpart("SamplerER_SDE", _same("s_noise", "max_stage"), {"solver_type": "ER-SDE", "eta": 1.0}),
    "er_sde_reverse_time": Counterpart(
        "SamplerER_SDE", _same("s_noise", "max_stage"), {"solver_type": "Reverse-time SDE", "eta": 1.0}
    ),
    "er_sde_ode": Counterpart("SamplerER_SDE", _same("max_stage"), {"solver_type": "ODE", "eta": 1.0, "s_noise": 1.0}),
}
"""Nodes with parameters of samplers; KSamplerSelect stands for the others."""

SCHEDULES: Mapping[str, Counterpart] = {
    "karras": Counterpart("KarrasScheduler", _same("sigma_max", "sigma_min", "rho")),
    "exponential": Counterpart("ExponentialScheduler", _same("sigma_max", "sigma_min")),
    "polyexponential": Counterpart("PolyexponentialScheduler", _same("sigma_max", "sigma_min", "rho")),
    "laplace": Counterpart("LaplaceScheduler", _same("sigma_max", "sigma_min", "mu", "beta")),
    "vp": Counterpart("VPScheduler", _same("beta_d", "beta_min", "eps_s")),
    "beta": Counterpart("BetaSamplingScheduler", _same("alpha", "beta"), of_model=True),
    "sd_turbo": Counterpart("SDTurboScheduler", _same("denoise"), of_model=True),
    "align_your_steps": Counterpart("AlignYourStepsScheduler", _same(model="model_type"), {"denoise": 1.0}),
    "gits": Counterpart("GITSScheduler", _same("coeff"), {"denoise": 1.0}),
    "optimal_steps": Counterpart("OptimalStepsScheduler", _same(model="model_type"), {"denoise": 1.0}),
    "flux2": Counterpart("Flux2Scheduler", _same("width", "height")),
}
"""Nodes with parameters of schedules; they make whole schedules, for a denoise of 1."""

_LIMITS = ("start_percent", "end_percent")

MODS: Mapping[str, Counterpart] = {
    "apg": Counterpart("APG", _same("eta", "norm_threshold", "momentum")),
    "tcfg": Counterpart("TCFG"),
    "rescale": Counterpart("RescaleCFG", _same("multiplier")),
    "renorm": Counterpart("RenormCFG", _same("cfg_trunc", "renorm_cfg")),
    "cfg_norm": Counterpart("CFGNorm", _same("strength")),
    "zero_star": Counterpart("CFGZeroStar"),
    "mahiro": Counterpart("Mahiro"),
    "fresca": Counterpart("FreSca", _same("scale_low", "scale_high", "freq_cutoff")),
    "epsilon_scaling": Counterpart("Epsilon Scaling", _same("scaling_factor")),
    "tsr": Counterpart("TemporalScoreRescaling", _same("tsr_k", "tsr_sigma")),
    "freeu": Counterpart("FreeU", _same("b1", "b2", "s1", "s2")),
    "freeu_v2": Counterpart("FreeU_V2", _same("b1", "b2", "s1", "s2")),
    "hypertile": Counterpart("HyperTile", _same("tile_size", "swap_size", "max_depth", "scale_depth")),
    "tome": Counterpart("TomePatchModel", _same("ratio")),
    "deep_shrink": Counterpart(
        "PatchModelAddDownscale",
        _same(*_LIMITS, "downscale_factor", "downscale_method", "upscale_method", block="block_number",
              after_skip="downscale_after_skip"),
    ),
    "easycache": Counterpart("EasyCache", _same("reuse_threshold", *_LIMITS), {"verbose": False}),
    "lazycache": Counterpart("LazyCache", _same("reuse_threshold", *_LIMITS), {"verbose": False}),
    "pag": Counterpart("PerturbedAttentionGuidance", _same("scale")),
    "sag": Counterpart("SelfAttentionGuidance", _same("scale", "blur_sigma")),
    "slg": Counterpart(
        "SkipLayerGuidanceDiT",
        _same("scale", "rescaling_scale", *_LIMITS, double="double_layers", single="single_layers"),
    ),
    "slg_simple": Counterpart(
        "SkipLayerGuidanceDiTSimple", _same(*_LIMITS, double="double_layers", single="single_layers")
    ),
    "self_attention_multiply": Counterpart("UNetSelfAttentionMultiply", _same("q", "k", "v", "out")),
    "cross_attention_multiply": Counterpart("UNetCrossAttentionMultiply", _same("q", "k", "v", "out")),
}  # fmt: skip
"""Nodes that patch a model as mods do; each takes the model."""


def plain_samplers() -> tuple[str, ...]:
    """Names of the samplers that KSampler knows."""
    choices = {each.name: each.choices for each in inputs_of(known_classes()["KSampler"])}
    return tuple(choices["sampler_name"])


def control_types() -> tuple[str, ...]:
    """What SetUnionControlNetType may be given; alternatives are joined by slashes."""
    choices = {each.name: each.choices for each in inputs_of(known_classes()["SetUnionControlNetType"])}
    return tuple(choices["type"])
