"""Quantised weights on their way through converters of names, which divide and reorder the rows of weights.

A converter gets stand-ins: complex numbers, of which the real part says which weight and the imaginary part which row.
What it makes of them says which rows of which weight each of its results is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sigmafield.models.weights.packed import Packed, Value, unpacked


def stand_ins(values: Mapping[str, Value]) -> dict[str, Tensor]:
    """The weights with stand-ins [rows, 1, …] for the quantised ones."""
    return {
        name: value if isinstance(value, Tensor) else _stand_in(number, value)
        for number, (name, value) in enumerate(values.items())
    }


def _stand_in(number: int, value: Packed) -> Tensor:
    rows = torch.arange(value.shape[0], dtype=torch.float64)
    return torch.complex(torch.full_like(rows, number), rows).reshape(-1, *[1] * (len(value.shape) - 1))


def resolved(converted: Mapping[str, Tensor], values: Mapping[str, Value]) -> dict[str, Value]:
    """What a converter made, with the rows of quantised weights for their stand-ins.

    Args:
        converted: Its results.
        values: What `stand_ins` was given.

    Raises:
        ValueError: If a result is not made of whole rows of one weight.
    """
    given = list(values.values())
    return {name: _rows_of(name, value, given) if value.is_complex() else value for name, value in converted.items()}


def _rows_of(name: str, stand_in: Tensor, given: list[Value]) -> Value:
    numbers, rows = stand_in.real.flatten().long(), stand_in.imag.flatten().long()
    if len(rows) != stand_in.shape[0] or len(numbers.unique()) != 1:
        raise ValueError(f"{name} is quantised, and made of parts of weights that cannot be taken apart")
    value = given[int(numbers[0])]
    if torch.equal(rows, torch.arange(value.shape[0])):
        return value
    if isinstance(value, Packed) and len(value.codes) == value.shape[0]:
        return value.rows(rows)
    return unpacked(value)[rows]
