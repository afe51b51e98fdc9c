"""Adds LoRAs to the weights of a model.

    W ← W + Σ s ΔW(W)

Each change is that of the model as it was without any, so that the order of the files does not matter. They are added
up in float32 and rounded once to the weight's dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from sigmafield.models.lora.adapters import Change
from sigmafield.models.lora.read import Lora
from sigmafield.models.lora.strengths import Strengths
from sigmafield.models.module_view import view_of
from sigmafield.models.weights.layers import change_weight, is_packed


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

    Layers of which nothing is added, at a strength of 0 too, keep their weights. Quantised weights stay quantised, and
    what is added to them is added at each call.

    Raises:
        ValueError: If a weight that is not quantised becomes infinite or NaN.
    """
    each: dict[str, list[tuple[Change, float]]] = {}
    files: dict[str, list[str]] = {}
    for lora, strengths in loras:
        strength = strengths.text if part.startswith("text_encoder") else strengths.network
        for name, changes in lora.changes.get(part, {}).items() if strength else ():
            each.setdefault(name, []).extend((change, strength) for change in changes)
            files.setdefault(name, []).append(f"{lora.path} at strength {strength:g}")
    for name, changes in each.items():
        path, _, kind = name.rpartition(".")
        layer = module.get_submodule(path)
        before = None if is_packed(layer, kind) else layer.get_parameter(kind)
        change_weight(layer, partial(_with_all, changes), kind)
        if before is not None and not _finite(layer.get_parameter(kind)) and _finite(before):
            raise ValueError(f"{' and '.join(files[name])}: {part}.{name} becomes infinite or NaN")


def _finite(weight: Tensor) -> bool:
    return weight.is_meta or bool(weight.float().isfinite().all())


def _with_all(changes: Sequence[tuple[Change, float]], weight: Tensor) -> Tensor:
    """W + Σ s ΔW(W)."""
    total = weight.clone()
    for change, strength in changes:
        total += change.times(strength, weight)
    return total
