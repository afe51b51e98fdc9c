"""Guidance: how the predictions of several prompts are combined, and the mods that change that.

Importing the package fills the registry of mods, `guidance.registry.GUIDANCE_MODS`.
"""

from sigmafield.guidance import autoguidance, caching, frequency, patches, projection, rescaling, scale
from sigmafield.guidance.registry import GUIDANCE_MODS, Mod, mod

__all__ = [
    "GUIDANCE_MODS",
    "Mod",
    "autoguidance",
    "caching",
    "frequency",
    "mod",
    "patches",
    "projection",
    "rescaling",
    "scale",
]
