"""What the tensors of one layer of a LoRA change: an adapter for each weight and bias, of their shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from sigmafield.models.lora.adapters import Adapter, Change, Full, Kronecker, adapter_of
from sigmafield.models.lora.keys import ALPHA, BY_OUTPUT, BY_SHAPE, DIFF_BIAS, DOWN, UP_BIAS
from sigmafield.models.lora.names import Piece, Shape
from sigmafield.models.lora.settings import scale_of


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
        alpha: The file's α where neither a tensor nor `settings` has one.

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
