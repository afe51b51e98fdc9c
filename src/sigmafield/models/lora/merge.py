"""Adds LoRAs to the weights of a model.

    W ← W + Σ s ΔW(W)

Each change is that of the model as it was without any, so that the order of the files does not matter. They are added
up in float32 and rounded once to the weight's dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sigmafield.models.lora.adapters import Change
from sigmafield.models.lora.read import Lora
from sigmafield.models.lora.strengths import Strengths
from sigmafield.models.module_view import view_of


def with_changes(modules: Mapping[str, Any], loras: Sequence[tuple[Lora, Strengths]]) -> dict[str, Any]:
    """The modules with LoRAs in their weights; the given ones are left as they are.

    A module that is changed is a view (`models.module_view`) in which the changed layers have weights of their own; all
    other weights are shared with the given module.
    """
    out = dict(modules)
    for part in modules:
        if any(lora.changes.get(part) for lora, _ in loras):
            out[part] = view_of(modules[part])
            merge(part, out[part], loras)
    return out


def merge(part: str, module: nn.Module, loras: Sequence[tuple[Lora, Strengths]]) -> None:
    """Adds LoRAs to the weights of a part of the model.

    Layers of which nothing is added, at a strength of 0 too, keep their weights.
    """
    each: dict[str, list[tuple[Change, float]]] = {}
    for lora, strengths in loras:
        strength = strengths.text if part.startswith("text_encoder") else strengths.network
        for name, changes in lora.changes.get(part, {}).items() if strength else ():
            each.setdefault(name, []).extend((change, strength) for change in changes)
    for name, changes in each.items():
        path, _, kind = name.rpartition(".")
        layer = module.get_submodule(path)
        own = dense(layer, kind)
        base = own.detach().to(torch.promote_types(own.dtype, torch.float32))
        total = base.clone()
        for change, strength in changes:
            total += change.times(strength, base)
        set_parameter(layer, kind, total.to(own.dtype))


def dense(layer: nn.Module, kind: str) -> Tensor:
    """A parameter of a layer in full: weight, bias, …."""
    return layer.get_parameter(kind)


def set_parameter(layer: nn.Module, kind: str, value: Tensor) -> None:
    """Gives a layer a parameter of its own, in a table of its own: views share them."""
    layer._parameters = {**layer._parameters, kind: nn.Parameter(value, requires_grad=False)}
