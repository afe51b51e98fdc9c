"""Reads a LoRA file for a model: which change of which weight each of its tensors belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sigmafield.models.directory import opened
from sigmafield.models.experts import LOW, side_of
from sigmafield.models.lora.adapters import Adapter, Change, Full, Kronecker, adapter_of
from sigmafield.models.lora.bundled import bundled_in, widths_of
from sigmafield.models.lora.keys import (
    ALPHA,
    BUNDLED,
    BY_OUTPUT,
    BY_SHAPE,
    DIFF_BIAS,
    DOWN,
    PEFT,
    UP_BIAS,
    parse,
)
from sigmafield.models.lora.names import Names, Piece, Shape, names_of, shapes_of
from sigmafield.models.lora.settings import ANY_PART, Settings, alpha_of_kohya, scale_of, settings_of
from sigmafield.models.text.bundled import Bundled

ENDINGS = (".safetensors", ".sft")


@dataclass(frozen=True, eq=False)
class Lora:
    """What a file changes in a model.

    Args:
        path: The file.
        changes: For each part of the model the changes of its parameters, by their names.
        unused: What cannot be used: the reason, and the names in the file.
        bundled: The textual inversions in it.
    """

    path: Path
    changes: Mapping[str, Mapping[str, Sequence[Change]]]
    unused: Mapping[str, Sequence[str]]
    bundled: Bundled = field(default_factory=dict)

    def left_out(self) -> str | None:
        """Says what of the file cannot be used; None where all of it can."""
        if not self.unused:
            return None
        count = sum(map(len, self.unused.values()))
        reasons = "; ".join(f"{reason}: {_some(names)}" for reason, names in self.unused.items())
        return f"{self.path}: {count} {'entry' if count == 1 else 'entries'} cannot be used: {reasons}"


def read_lora(path: Path, modules: Mapping[str, Any]) -> Lora:
    """Reads a LoRA; what of it cannot be used is listed in `Lora.unused`, see `usable`.

    Args:
        path: The LoRA's file.
        modules: The modules that it is for, by diffusers' names.

    Raises:
        ValueError: If the file is broken.
    """
    tensors, header = tensors_of(path)
    settings = settings_of(path, header, peft=any(key.startswith(PEFT) for key in tensors))
    lora = fitted(path, tensors, modules, settings, alpha_of_kohya(path, header, tensors))
    return for_experts(lora) if LOW in modules else lora


def for_experts(lora: Lora) -> Lora:
    """A LoRA of a model with two networks: for both, or for the one that its names or its file's name say."""
    changes, side = dict(lora.changes), side_of(lora.path)
    if LOW not in changes and "transformer" in changes and side != "high":
        changes[LOW] = changes["transformer"]
        if side == "low":
            del changes["transformer"]
    return replace(lora, changes=changes)


def usable(lora: Lora, partial: bool) -> Lora:
    """Returns a LoRA that can be used.

    Args:
        lora: The LoRA.
        partial: Whether it may have entries that cannot be used.

    Raises:
        ValueError: If nothing in it can be used, or not all of it and `partial` is false.
    """
    what = lora.left_out()
    if what is not None and not any(lora.changes.values()) and not lora.bundled:
        raise ValueError(f"{what}; nothing of it is for this model")
    if what is not None and not partial:
        raise ValueError(f"{what}; lora_partial=True (--lora-partial) loads the rest")
    return lora


def notes_of(loras: Iterable[Lora]) -> Sequence[str]:
    """What a user should know about LoRAs that were loaded in part."""
    return tuple(f"LoRA {what}" for lora in loras if (what := lora.left_out()) is not None)


def tensors_of(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the tensors and the header's metadata of a file.

    Raises:
        ValueError: If it is not a safetensors file, has no tensors, or its numbers are not finite.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path}: a LoRA must be a .safetensors file; a pickle can run any code and is not opened")
    with safe_open(opened(path), "pt") as file:
        header = file.metadata() or {}
        try:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (AttributeError, KeyError, RuntimeError, SafetensorError, TypeError) as error:
            raise ValueError(f"{path}: its numbers have a type that torch does not read ({error})") from None
    if not tensors:
        raise ValueError(f"{path}: the file has no tensors")
    for name, value in tensors.items():
        if not value.is_complex() and not value.float().isfinite().all():
            raise ValueError(f"{path}: {name} has NaN or infinity; the file is broken")
    return tensors, header


def fitted(
    path: Path, tensors: Mapping[str, Tensor], modules: Mapping[str, Any], settings: Settings, alpha: float | None
) -> Lora:
    """Matches the tensors of a file to the layers of a model.

    Args:
        path: The file, for messages.
        tensors: Its tensors.
        modules: As for `read_lora`.
        settings: What its header says of α.
        alpha: The file's α where neither a tensor nor `settings` has one.
    """
    layers: dict[tuple[Sequence[str], str], dict[str, Tensor]] = {}
    called: dict[tuple[Sequence[str], str], str] = {}
    twice: dict[tuple[Sequence[str], str], str] = {}
    unused: dict[str, list[str]] = {}
    parameters = {part: shapes_of(module) for part, module in modules.items()}
    words = {name: value for name, value in tensors.items() if name.startswith(BUNDLED)}
    bundled, refused = bundled_in(path, words, widths_of(parameters))
    for name, reason in refused.items():
        unused.setdefault(reason, []).append(name)
    for name, value in tensors.items():
        key = parse(name)
        if name in words:
            continue
        if key is None or value.is_complex():
            unused.setdefault("unknown names", []).append(name)
        elif key.role != ALPHA and not value.is_floating_point():
            unused.setdefault(WHOLE, []).append(name)
        else:
            layer = layers.setdefault((key.parts, key.layer), {})
            if not equal(layer.setdefault(key.role, value), value):
                twice.setdefault((key.parts, key.layer), name)
            called.setdefault((key.parts, key.layer), name)
    names = {part: names_of(shapes) for part, shapes in parameters.items()}
    changes: dict[str, dict[str, list[Change]]] = {}
    for name in twice.values():
        unused.setdefault(TWICE, []).append(name)
    for (parts, layer), values in layers.items():
        if (parts, layer) in twice:  # matrices of one spelling do not belong to those of the other
            continue
        try:
            part, pieces = located(parts, layer, names)
            known = settings.get(part, settings.get(ANY_PART, {}))
            own = changes_of(pieces, values, parameters[part], known, alpha)
            before = changes.setdefault(part, {})
            if any(parameter in before for parameter, _ in own):
                raise ValueError(TWICE)
            for parameter, change in own:
                before.setdefault(parameter, []).append(change)
        except ValueError as error:
            if not without_effect(values):
                reason, *details = error.args
                name = called[parts, layer]
                unused.setdefault(reason, []).append(f"{name} ({details[0]})" if details else name)
    return Lora(path, changes, unused, bundled)


WHOLE = "integers, quantised without a scale"
TWICE = "given twice, with different values or for the same weight"


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same numbers; one number alone may have any number of axes."""
    same = one.shape == other.shape or one.numel() == other.numel() == 1
    return same and torch.equal(one.reshape(-1).float(), other.reshape(-1).float())


def located(parts: Sequence[str], layer: str, names: Mapping[str, Names]) -> tuple[str, Sequence[Piece]]:
    """The part of a model and the layers that a name means; raises ValueError where the model does not have them."""
    there = [part for part in parts if part in names]
    if not there:
        raise ValueError(f"for {parts[0]}, while this model has {', '.join(names)}")
    plain = layer.replace(".processor.", ".")
    for part in there:
        for spelling in (layer, plain, plain.replace(".", "_")):
            if spelling in names[part]:
                return part, names[part][spelling]
    raise ValueError(f"no such layers in {there[0] if len(there) == 1 else 'this model'}")


def changes_of(
    pieces: Sequence[Piece],
    values: Mapping[str, Tensor],
    parameters: Mapping[str, Shape],
    settings: Mapping[str, Any],
    alpha: float | None,
) -> list[tuple[str, Change]]:
    """The changes that the tensors of one layer are: the name of each parameter, and what is added to it.

    Args:
        pieces: The layers that were trained as one.
        values: The tensors by their roles.
        parameters: Shapes of the module's parameters.
        settings: What the file's header says of α, for the module.
        alpha: As for `fitted`.

    Raises:
        ValueError: If a tensor is missing or does not fit.
    """
    weights = [piece.layer if piece.layer in parameters else f"{piece.layer}.weight" for piece in pieces]
    biases = [f"{piece.layer}.bias" for piece in pieces]
    adapter, out, scale = adapter_of(values), list[tuple[str, Change]](), 1.0
    if adapter is not None:
        if adapter.rank:
            scale = scale_of(values.get(ALPHA), settings, pieces[0].layer, adapter.rank, alpha)
        magnitude = magnitude_of(values, [parameters[name] for name in weights])
        for name, index, piece in cut(adapter, weights, pieces, parameters):
            whole = magnitude if magnitude is None or len(magnitude) == 1 else magnitude[index]
            out.append((name, Change(piece, scale, whole)))
    for role, factor in ((DIFF_BIAS, 1.0), (UP_BIAS, scale)):
        if role in values:
            if any(name not in parameters for name in biases):
                raise ValueError("a bias for layers without one")
            bias = Full(values[role].reshape(-1))
            out += [(name, Change(piece, factor)) for name, _, piece in cut(bias, biases, pieces, parameters)]
    if not out:
        raise ValueError(f"{ALPHA if ALPHA in values else 'DoRA'} without matrices")
    return out


def cut(
    adapter: Adapter, names: Sequence[str], pieces: Sequence[Piece], parameters: Mapping[str, Shape]
) -> list[tuple[str, Tensor, Adapter]]:
    """Cuts a change into those of the parameters that it is for: for each the name, its rows, the change."""
    shapes = [parameters[name] for name in names]
    rows, row = sum(shape[0] for shape in shapes), prod(shapes[0][1:])
    whole = not isinstance(adapter, Kronecker) or adapter.second[0].numel() % prod(shapes[0][2:]) == 0
    if adapter.size != (rows, row) or not whole:
        given = "×".join(map(str, adapter.size))
        raise ValueError("changes of another shape than the weights", f"{given} for {rows}×{row}")
    out: list[tuple[str, Tensor, Adapter]] = []
    start = 0
    for name, piece, shape in zip(names, pieces, shapes):
        index = torch.arange(start, start + shape[0])
        index = index.roll(shape[0] // 2) if piece.swapped else index
        alone = len(pieces) == 1 and not piece.swapped
        out.append((name, index, adapter if alone else adapter.rows(index)))
        start += shape[0]
    return out


def magnitude_of(values: Mapping[str, Tensor], shapes: Sequence[Shape]) -> Tensor | None:
    """DoRA's magnitudes for weights that lie one below the other, [out, 1, …] or [1, in, 1, …]; None: no DoRA.

    Raises:
        ValueError: If their number is another, or they belong to inputs of a layer that is several here.
    """
    rows, rest = sum(shape[0] for shape in shapes), [1] * (len(shapes[0]) - 1)
    if BY_OUTPUT in values:
        given, by_output = values[BY_OUTPUT], True
    elif BY_SHAPE in values:
        given = values[BY_SHAPE]
        by_output = given.ndim > 0 and len(given) == rows and given.numel() == rows
    else:
        return None
    if by_output and given.numel() == rows:
        return given.reshape(rows, *rest)
    if not by_output and len(shapes[0]) > 1 and given.numel() == shapes[0][1]:
        if len(shapes) > 1:
            raise ValueError("DoRA by inputs of a layer that is several layers here")
        return given.reshape(1, -1, *rest[1:])
    raise ValueError("another number of magnitudes than rows", f"{given.numel()} for {rows}")


def without_effect(values: Mapping[str, Tensor]) -> bool:
    """Whether the tensors of a layer change nothing, as those of layers that were not trained."""
    matrices = [value for role, value in values.items() if role not in (ALPHA, DOWN)]
    return bool(matrices) and not any(bool(value.float().any()) for value in matrices)


def _some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more
