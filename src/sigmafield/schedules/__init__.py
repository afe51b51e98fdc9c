"""Schedules: the noise levels that a run visits, made from a number of steps.

Each function returns steps + 1 levels (a few return fewer and say so), float64 on the CPU, ending at 0. Values are
rounded to float32 where the reference (ComfyUI) rounds them, so they are bit-identical to its values.
"""

from sigmafield.schedules.from_timesteps import (  # isort: skip  (registers first, as in ComfyUI's menu)
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
from sigmafield.schedules.of_pipeline import grid_of
from sigmafield.schedules.published import align_your_steps, flux2, gits, ltxv, optimal_steps
from sigmafield.schedules.registry import SCHEDULES, Schedule

__all__ = [
    "SCHEDULES", "SPACINGS", "Schedule", "align_your_steps", "beta", "ddim_uniform", "exponential",
    "extend_intermediate", "flip", "flux2", "gits", "grid_of", "karras", "kl_optimal", "laplace", "linear_quadratic",
    "ltxv", "manual", "normal", "optimal_steps", "polyexponential", "sd_turbo", "set_first", "sgm_uniform",
    "sigma_at", "simple", "split", "split_denoise", "vp",
]  # fmt: skip
