"""What a file adds to one weight: ΔW of each kind of adapter, written from its definition.

    LoRA, LoCon    B A; with a core B ∘ T ∘ A                       arXiv:2106.09685
    LoHa           (A₁ B₁) ⊙ (A₂ B₂), Tucker's form with cores      arXiv:2108.06098
    LoKr           C ⊗ D                                            arXiv:2212.10650
    full           ΔW itself, of norms and biases too
    DoRA           m ⊙ (W + ΔW) / ‖W + ΔW‖ − W, of any of these     arXiv:2402.09353

Each is a value with `size`, its rows and the numbers in a row; `rank`, what α is divided by, None where α does not
apply; `rows(index)`, the change of some rows, for a matrix that was trained over several layers of the model; and
`delta(weight)`, a new tensor of the weight's shape, device and dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from sigmafield.models.lora.keys import DIFF, DOWN, HADA, LOKR, MID, UP


@dataclass(frozen=True, eq=False)
class LowRank:
    """LoRA, or a LoCon's convolutions one after another.

    Args:
        up: B [out, r].
        down: A [r, …], with what a row of the weight has; with a core [r, in].
        core: T [r, r, *kernel].
    """

    up: Tensor
    down: Tensor
    core: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Rows, and numbers in a row."""
        return len(self.up), self.down[0].numel() * (1 if self.core is None else self.core[0, 0].numel())

    @property
    def rank(self) -> int:
        """r."""
        return len(self.down)

    def rows(self, index: Tensor) -> LowRank:
        """The change of these rows alone, in this order."""
        return replace(self, up=self.up[index])

    def delta(self, weight: Tensor) -> Tensor:
        """B A, or Σ_ij B_oi T_ij A_jc."""
        up, down = self.up.to(weight), self.down.to(weight)
        if self.core is None:
            return (up @ down).reshape(weight.shape)
        return torch.einsum("oi,ij...,jc->oc...", up, self.core.to(weight), down).reshape(weight.shape)


@dataclass(frozen=True, eq=False)
class Hadamard:
    """LoHa: the product of two low-rank matrices, number by number.

    Args:
        first: (A₁ [out, r], B₁ [r, …], its core T₁ [r, r, *kernel] or None).
        second: The same of the other matrix.
    """

    first: LowRank
    second: LowRank

    @property
    def size(self) -> tuple[int, int]:
        """Rows, and numbers in a row."""
        return self.first.size

    @property
    def rank(self) -> int:
        """r."""
        return self.first.rank

    def rows(self, index: Tensor) -> Hadamard:
        """The change of these rows alone, in this order."""
        return Hadamard(self.first.rows(index), self.second.rows(index))

    def delta(self, weight: Tensor) -> Tensor:
        """(A₁ B₁) ⊙ (A₂ B₂)."""
        return self.first.delta(weight).mul_(self.second.delta(weight))


@dataclass(frozen=True, eq=False)
class Kronecker:
    """LoKr: each number of C times the whole of D.

    Args:
        first: C [p, q].
        second: D [m, …], with out = p m and in = q n.
        rank: Of the factors that C or D was given by; None where both were given whole, which have no α.
        index: The rows that are meant; None: all.
    """

    first: Tensor
    second: Tensor
    rank: int | None
    index: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Rows, and numbers in a row."""
        rows = len(self.first) * len(self.second) if self.index is None else len(self.index)
        return rows, self.first.shape[1] * self.second[0].numel()

    def rows(self, index: Tensor) -> Kronecker:
        """The change of these rows alone, in this order."""
        return replace(self, index=index if self.index is None else self.index[index])

    def delta(self, weight: Tensor) -> Tensor:
        """C ⊗ D; a convolution's kernel belongs to D."""
        kernel = weight.shape[2:]
        first = self.first.to(weight).reshape(*self.first.shape, *[1] * len(kernel))
        out = torch.kron(first, self.second.to(weight).reshape(len(self.second), -1, *kernel).contiguous())
        return (out if self.index is None else out[self.index.to(out.device)]).reshape(weight.shape)


@dataclass(frozen=True, eq=False)
class Full:
    """The change itself.

    Args:
        values: ΔW, or the change of a bias or of a norm.
    """

    values: Tensor
    rank: None = None

    @property
    def size(self) -> tuple[int, int]:
        """Rows, and numbers in a row."""
        return len(self.values), prod(self.values.shape[1:])

    def rows(self, index: Tensor) -> Full:
        """The change of these rows alone, in this order."""
        return Full(self.values[index])

    def delta(self, weight: Tensor) -> Tensor:
        """ΔW."""
        return self.values.to(weight, copy=True).reshape(weight.shape)


Adapter = LowRank | Hadamard | Kronecker | Full
"""A change of one weight [out, in, *kernel], before it is scaled."""


@dataclass(frozen=True, eq=False)
class Change:
    """A change of one weight, as it is added.

    Args:
        adapter: ΔW before it is scaled.
        scale: Its factor: α/r, or α/√r.
        magnitude: DoRA's m: [out, 1, …], or [1, in, 1, …]; None: no DoRA.
    """

    adapter: Adapter
    scale: float = 1.0
    magnitude: Tensor | None = None

    def times(self, strength: float, weight: Tensor) -> Tensor:
        """What is added to a weight at a strength, of the weight's shape, device and dtype.

        DoRA's is linear in the strength too: s (W' − W), W' the weight at strength 1.
        """
        delta = self.adapter.delta(weight).mul_(self.scale)
        if self.magnitude is None:
            return delta.mul_(strength)
        directed = delta.add_(weight)
        axes = [axis for axis, length in enumerate(self.magnitude.shape) if length == 1]
        norm = torch.linalg.vector_norm(directed, dim=axes, keepdim=True)
        ratio = self.magnitude.to(weight) / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        return directed.mul_(ratio).sub_(weight).mul_(strength)


def adapter_of(values: Mapping[str, Tensor]) -> Adapter | None:
    """Makes the adapter that the tensors of one layer are, by their roles; None where they are none of the weight.

    Raises:
        ValueError: If a tensor is missing, or does not fit the others.
    """
    kinds = {
        "LoRA": ((DOWN, UP, MID), low_rank),
        "LoHa": (HADA, hadamard),
        "LoKr": (LOKR, kronecker),
        "full": ((DIFF,), full),
    }
    there = [kind for kind, (roles, _) in kinds.items() if values.keys() & set(roles)]
    if len(there) > 1:
        raise ValueError(f"{' and '.join(there)} of one layer")
    for name in values.keys() & {DOWN, UP, MID, *HADA, *LOKR}:
        if values[name].ndim < 2 or values[name].numel() == 0:
            raise ValueError(f"{name} is not a matrix", f"shape {tuple(values[name].shape)}")
    try:
        return kinds[there[0]][1](values) if there else None
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from None


def low_rank(values: Mapping[str, Tensor]) -> LowRank:
    """LoRA and LoCon."""
    return pair(values[UP], values[DOWN], values.get(MID))


def pair(up: Tensor, down: Tensor, core: Tensor | None) -> LowRank:
    """Checks the ranks of B, A and T; what is beyond two axes in B has length 1."""
    rank = len(down)
    outer, inner = (rank, rank) if core is None else core.shape[:2]
    if up[0].numel() != outer or inner != rank:
        shapes = ", ".join("×".join(map(str, each.shape)) for each in (down, up, core) if each is not None)
        raise ValueError("matrices whose ranks differ", shapes)
    return LowRank(up.reshape(len(up), -1), down.reshape(rank, -1), core)


def hadamard(values: Mapping[str, Tensor]) -> Hadamard:
    """LoHa; with a core, A is stored as [r, out]."""
    a1, b1, a2, b2 = (values[name] for name in HADA[:4])
    t1, t2 = (values.get(name) for name in HADA[4:])
    if (t1 is None) != (t2 is None):
        raise ValueError("one of hada_t1 and hada_t2 is missing")
    first, second = (pair(a if t is None else a.transpose(0, 1), b, t) for a, b, t in ((a1, b1, t1), (a2, b2, t2)))
    if first.size != second.size:
        raise ValueError("the two matrices of LoHa have different sizes")
    return Hadamard(first, second)


def kronecker(values: Mapping[str, Tensor]) -> Kronecker:
    """LoKr, whose C and D are whole, or products."""
    first, rank = whole("lokr_w1", values)
    second, other = whole("lokr_w2", values)
    if first.ndim != 2:
        raise ValueError("lokr_w1 is not a matrix")
    return Kronecker(first, second, other or rank)


def whole(name: str, values: Mapping[str, Tensor]) -> tuple[Tensor, int | None]:
    """C or D of LoKr, with the rank where it is a product; with a core, the left factor is stored as [r, m]."""
    factors = values.keys() & {f"{name}_a", f"{name}_b", name.replace("_w", "_t")}
    if name in values:
        if factors:
            raise ValueError(f"{name} and {min(factors)} of one layer")
        return values[name].float(), None
    core = values.get("lokr_t2") if name == "lokr_w2" else None
    left, right = (values[f"{name}_{side}"].float() for side in "ab")
    made = pair(left if core is None else left.transpose(0, 1), right, None if core is None else core.float())
    rows, columns = made.size
    return made.delta(left.new_empty(rows, columns)), made.rank


def full(values: Mapping[str, Tensor]) -> Full:
    """The change itself."""
    if values[DIFF].numel() == 0 or values[DIFF].ndim == 0:
        raise ValueError(f"{DIFF} is not the change of a weight", f"shape {tuple(values[DIFF].shape)}")
    return Full(values[DIFF])
