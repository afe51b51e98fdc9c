"""Weights of two models of one architecture combined into those of a third."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sigmafield.models.module_view import view_of

Combine = Callable[[str, Tensor, Tensor], Tensor]
"""(name of a weight, the first model's, the second's in its dtype and place) → the weight."""


def merged(first: nn.Module, second: nn.Module, combine: Combine) -> nn.Module:
    """A module like the first with combined weights; both are left as they are.

    Args:
        first: The module whose architecture, dtype and buffers are kept.
        second: A module with weights of the same names and shapes.
        combine: Makes each weight, in float32.

    Raises:
        ValueError: The two have different weights.
    """
    theirs = dict(second.named_parameters())
    ours = {name: tuple(value.shape) for name, value in first.named_parameters()}
    if ours != {name: tuple(value.shape) for name, value in theirs.items()}:
        raise ValueError("two models can be merged only if their weights have the same names and shapes")
    made = view_of(first)
    for name, weight in list(first.named_parameters()):
        path, _, leaf = name.rpartition(".")
        value = combine(name, weight.detach().float(), theirs[name].detach().to(weight.device, torch.float32))
        layer: Any = made.get_submodule(path)
        own = nn.Parameter(value.to(weight.dtype), requires_grad=False)
        layer._parameters = {**layer._parameters, leaf: own}  # a table of its own: views share them
    return made


def merged_all(first: Mapping[str, Any], second: Mapping[str, Any], combine: Combine) -> dict[str, Any]:
    """Each of several modules merged with the one of the same name.

    Raises:
        ValueError: The two have different modules, or modules with different weights.
    """
    if first.keys() != second.keys():
        raise ValueError(f"cannot merge {', '.join(first) or 'nothing'} with {', '.join(second) or 'nothing'}")
    return {name: merged(module, second[name], combine) for name, module in first.items()}
