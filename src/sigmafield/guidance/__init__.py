"""Guidance: how the predictions of several prompts are combined, and the mods that change that."""

from sigmafield.guidance import autoguidance, caching, frequency, patches, projection, rescaling, scale
from sigmafield.guidance.registry import MODS, Mod, mod, parse_mods

__all__ = [
    "MODS",
    "Mod",
    "autoguidance",
    "caching",
    "frequency",
    "mod",
    "parse_mods",
    "patches",
    "projection",
    "rescaling",
    "scale",
]
