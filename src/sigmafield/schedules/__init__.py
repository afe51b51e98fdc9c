"""Schedules: which noise levels a run visits, from a number of steps.

Each function returns steps + 1 levels (a few give fewer, and say so), float64 on the CPU, ending in 0. Values
are rounded to float32 where the reference (ComfyUI) rounds them, so they are the same numbers to the bit.
"""

from sigmafield.schedules.from_timesteps import (  # isort: skip  (the order of registration: ComfyUI's menu begins so)
    beta,
    ddim_uniform,
    linear_quadratic,
    normal,
    sd_turbo,
    sgm_uniform,
    simple,
)
from sigmafield.schedules.edit import (
    SPACINGS,
    extend_intermediate,
    flip,
    manual,
    set_first,
    sigma_at,
    split,
    split_denoise,
)
from sigmafield.schedules.from_range import exponential, karras, kl_optimal, laplace, polyexponential, vp
from sigmafield.schedules.published import align_your_steps, flux2, gits, ltxv, optimal_steps
from sigmafield.schedules.registry import SCHEDULES, Schedule

__all__ = [
    "SCHEDULES", "SPACINGS", "Schedule", "align_your_steps", "beta", "ddim_uniform", "exponential",
    "extend_intermediate", "flip", "flux2", "gits", "karras", "kl_optimal", "laplace", "linear_quadratic",
    "ltxv", "manual", "normal", "optimal_steps", "polyexponential", "sd_turbo", "set_first", "sgm_uniform",
    "sigma_at", "simple", "split", "split_denoise", "vp",
]  # fmt: skip
