"""Functions of torch whose types its stubs leave open, with types."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

linalg: Any = torch.linalg


def vector_norm(x: Tensor, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    """‖x‖₂ over axes."""
    return linalg.vector_norm(x, dim=dim, keepdim=keepdim)


def solve(A: Tensor, b: Tensor) -> Tensor:
    """The solution of A w = b, for each leading index."""
    return linalg.solve(A, b)


def numbers(x: Tensor) -> list[float]:
    """The values of a 1-d tensor, as floats."""
    return [float(value) for value in cast("Any", x).tolist()]


def distinct(x: Tensor) -> list[float]:
    """The distinct values of a tensor, ascending, as floats."""
    return numbers(cast("Any", x).unique())
