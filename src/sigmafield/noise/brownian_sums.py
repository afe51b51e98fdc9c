"""The sums of a Brownian path: many bridges at once, a piece of the latent after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

PIECE = 1 << 15
"""Numbers of a latent that go through all sums of a question before the next ones do: they stay in a core's cache."""


class Split(NamedTuple):
    """A node's increment and those of its halves; `left` holds standard normal numbers before, `right` anything."""

    w: Tensor
    left: Tensor
    right: Tensor
    before: float
    per_length: float
    std: float


def add_up(splits: Sequence[Split], cover: Sequence[Tensor], total: Tensor, each: Callable[..., Iterable[Any]]) -> None:
    """Cut nodes in two, one after the other, by the Brownian bridges over them; total = the cover's sum, left to right.

        right = w before/length,   left = std ξ + right,   right = w − left

    Each piece of a latent on the CPU is taken through all of it, by the threads of `each`, a `map`. NumPy gives the
    same bits as torch there, with less work for a call.
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
            mul(w, before, out=right)  # the order of operations decides the last bit
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
