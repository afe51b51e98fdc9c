"""Sums Brownian-bridge increments chunk by chunk: all bridges of a request for one piece of the latent at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

PIECE = 1 << 15
"""Numbers of a latent that go through all sums of a request together, few enough to stay in a core's cache."""


class Split(NamedTuple):
    """How to cut a node in two halves.

    Attributes:
        w: Increment over the node.
        left: Standard normal numbers at first, then the increment over the left half.
        right: Buffer for the increment over the right half.
        before: Length of the left half.
        per_length: 1/length of the node.
        std: Standard deviation of the Brownian bridge at the cut.
    """

    w: Tensor
    left: Tensor
    right: Tensor
    before: float
    per_length: float
    std: float


def add_up(splits: Sequence[Split], cover: Sequence[Tensor], total: Tensor, each: Callable[..., Iterable[Any]]) -> None:
    """Cut nodes in two by their Brownian bridges, one after the other, and sum the cover from left to right.

        right = w before/length,   left = std ξ + right,   right = w − left

    A latent on the CPU is divided into pieces, and each piece goes through all splits and the sum in one thread. NumPy
    gives the same bits as torch there, with less overhead per call.

    Args:
        splits: Splits in the order in which they are done.
        cover: Increments to sum.
        total: Output, of a latent's shape.
        each: A `map`, which may use several threads.
    """
    cpu = total.device.type == "cpu"
    quick = cpu and total.dtype in (torch.float32, torch.float64)
    mul, add, sub = (np.multiply, np.add, np.subtract) if quick else (torch.mul, torch.add, torch.sub)

    def flat(t: Tensor) -> Any:
        return t.view(-1).numpy() if quick else t.view(-1)

    flat_splits = [(*map(flat, split[:3]), *split[3:]) for split in splits]
    terms, out = [flat(t) for t in cover], flat(total)

    def piece(part: slice) -> None:
        for w, left, right, before, per_length, std in flat_splits:
            w, left, right = w[part], left[part], right[part]
            mul(w, before, out=right)  # bit-equality with torchsde depends on this order of operations
            mul(right, per_length, out=right)
            mul(left, std, out=left)
            add(left, right, out=left)
            sub(w, left, out=right)
        so_far = out[part]
        so_far[...] = terms[0][part]
        for term in terms[1:]:
            add(so_far, term[part], out=so_far)

    size = PIECE if cpu else max(total.numel(), 1)
    for _ in each(piece, [slice(i, i + size) for i in range(0, total.numel(), size)]):
        pass
