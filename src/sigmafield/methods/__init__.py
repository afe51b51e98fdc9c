"""Sampling methods: each a function over one interval of the schedule, and a row in the registry."""

from sigmafield.methods import dpm, dpmpp, euler, exponential, runge_kutta
from sigmafield.methods.registry import METHODS, Method, lookup, method, preset

__all__ = ["METHODS", "Method", "dpm", "dpmpp", "euler", "exponential", "lookup", "method", "preset", "runge_kutta"]
