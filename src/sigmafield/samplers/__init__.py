"""Samplers: each one is a function over one interval of the schedule and a row in the registry."""

from sigmafield.samplers import (
    distance,
    dpm,
    dpmpp,
    er_sde,
    euler,
    exponential,
    multistep,
    runge_kutta,
    sa_solver,
    singlestep,
    soft_median,
    uni_pc,
)
from sigmafield.samplers.registry import SAMPLERS, Sampler, preset, sampler

__all__ = ["SAMPLERS", "Sampler", "preset", "sampler"]
__all__ += ["distance", "dpm", "dpmpp", "er_sde", "euler", "exponential", "multistep", "runge_kutta", "sa_solver"]
__all__ += ["singlestep", "soft_median", "uni_pc"]
