"""Builds modules of diffusers or transformers from a config and weights in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor

WRAP = "text_model."
"""Prefix of a text encoder's weights in transformers 4, which 5 leaves out."""


def assembled(kind: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor], what: str) -> Any:
    """Builds a module of a class with these tensors as its weights, not copied, without gradients.

    Args:
        kind: Class of diffusers or transformers.
        config: Its config.
        tensors: The weights by name.
        what: Beginning of error messages.

    Raises:
        ValueError: If a weight is missing, unknown or of another shape.
    """
    with init_empty_weights(include_buffers=False):
        module = made(kind, dict(config))
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    given = {known_as(name, shapes): value for name, value in tensors.items()}
    unknown = sorted(given.keys() - shapes.keys())
    other = sorted(name for name in given.keys() & shapes.keys() if given[name].shape != shapes[name])
    for names, rule in ((unknown, "unknown"), (other, "of another shape")):
        if names:
            raise ValueError(f"{what}: {len(names)} weights are {rule}, the first is {names[0]}")
    module.load_state_dict(given, strict=False, assign=True)
    if hasattr(module, "tie_weights"):
        module.tie_weights()  # a weight that goes by two names is in the file once
    missing = sorted(name for name, value in module.named_parameters() if value.is_meta)
    if missing:
        raise ValueError(f"{what}: {len(missing)} weights are missing, the first is {missing[0]}")
    return in_full(module).eval().requires_grad_(False)


def made(kind: Any, config: dict[str, Any]) -> Any:
    """Builds an empty module; diffusers and transformers take configs in different ways."""
    if kind.__module__.startswith("diffusers"):
        return kind.from_config(config)
    return kind(kind.config_class.from_dict(config))


def known_as(name: str, known: Mapping[str, Any]) -> str:
    """Finds the name of a weight in the class, with or without the text encoders' prefix."""
    spellings = (name, name.removeprefix(WRAP), WRAP + name)
    return next((spelling for spelling in spellings if spelling in known), name)


def in_full(module: Any) -> Any:
    """Converts the parts to float32 that overflow in float16, as the class says."""
    kept = getattr(module, "_keep_in_fp32_modules", None) or ()
    for name, value in module.named_parameters():
        if value.dtype == torch.float16 and not set(kept).isdisjoint(name.split(".")):
            value.data = value.data.float()
    return module
