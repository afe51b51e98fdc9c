"""Sampling methods: each a function over one interval of the schedule, and a row in the registry."""

from sigmafield.methods import (
    distance,
    dpm,
    dpmpp,
    euler,
    exponential,
    multistep,
    runge_kutta,
    sa_solver,
    singlestep,
    soft_median,
    uni_pc,
)
from sigmafield.methods.registry import METHODS, Method, lookup, method, preset

__all__ = ["METHODS", "Method", "lookup", "method", "preset"]
__all__ += ["distance", "dpm", "dpmpp", "euler", "exponential", "multistep", "runge_kutta", "sa_solver", "singlestep"]
__all__ += ["soft_median", "uni_pc"]
