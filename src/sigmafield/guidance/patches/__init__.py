"""Guidance that acts within the network: patches of diffusers' modules that last for one call, and mods of them."""

from sigmafield.guidance.patches import normalized_attention, perturbed_attention, self_attention, skip_layers

__all__ = ["normalized_attention", "perturbed_attention", "self_attention", "skip_layers"]
