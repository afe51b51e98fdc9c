"""Guidance that acts within the network: patches of diffusers' modules that last for one call, and mods of them."""

from sigmafield.guidance.patches import perturbed_attention

__all__ = ["perturbed_attention"]
