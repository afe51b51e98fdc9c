"""Guidance that acts within the network: patches of diffusers' modules that last for one call, and mods of them."""

from sigmafield.guidance.patches import (
    attention_multiply,
    deep_shrink,
    freeu,
    hypertile,
    normalized_attention,
    perturbed_attention,
    self_attention,
    skip_layers,
    token_merging,
)

__all__ = [
    "attention_multiply",
    "deep_shrink",
    "freeu",
    "hypertile",
    "normalized_attention",
    "perturbed_attention",
    "self_attention",
    "skip_layers",
    "token_merging",
]
