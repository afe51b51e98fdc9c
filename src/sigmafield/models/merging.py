"""Weights of two models of one architecture combined into those of a third."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from sigmafield.models.module_view import view_of
from sigmafield.models.weights.layers import dense_weight, set_weight, weights_of

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
    ours = weights_of(first)
    if ours != weights_of(second):
        raise ValueError("two models can be merged only if their weights have the same names and shapes")
    made = view_of(first)
    for name in ours:
        path, _, leaf = name.rpartition(".")
        layer = made.get_submodule(path)
        weight = dense_weight(layer, leaf).float()
        other = dense_weight(second.get_submodule(path), leaf).to(weight)
        set_weight(layer, combine(name, weight, other), leaf)
    return made


def merged_all(first: Mapping[str, Any], second: Mapping[str, Any], combine: Combine) -> dict[str, Any]:
    """Each of several modules merged with the one of the same name.

    Raises:
        ValueError: The two have different modules, or modules with different weights.
    """
    if first.keys() != second.keys():
        raise ValueError(f"cannot merge {', '.join(first) or 'nothing'} with {', '.join(second) or 'nothing'}")
    return {name: merged(module, second[name], combine) for name, module in first.items()}
