"""Guidance: prompts that act in places, how their predictions are combined, and what changes that."""

from sigmafield.guidance import frequency, mods, patches, projected, reuse, scales, windows
from sigmafield.guidance.registry import MODS, Mod, lookup, mod, parse_mods

__all__ = [
    "MODS",
    "Mod",
    "frequency",
    "lookup",
    "mod",
    "mods",
    "parse_mods",
    "patches",
    "projected",
    "reuse",
    "scales",
    "windows",
]
