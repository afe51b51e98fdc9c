"""Linear combinations of latents, and small numerical functions of coefficients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sigmafield.core.typed import distinct


def lincomb(*terms: Tensor | float) -> Tensor:
    """c0·v0 + c1·v1 + … in one new buffer, with the dtype of the first latent; no argument is changed.

    Args:
        *terms: Coefficients and latents in turn. A coefficient is a number, a 0-d float64 tensor on the CPU, or a field
            that broadcasts over the latents.
    """
    latents = [v for v in terms[1::2] if isinstance(v, Tensor)]
    coefficients = [_coefficient(c, latents[0]) for c in terms[::2]]
    (c, first), *rest = zip(coefficients, latents, strict=True)
    out = _sum(first, *rest[0]) if rest and isinstance(c, float) and c == 1.0 else None
    if out is None:
        out = first * c
    else:
        rest = rest[1:]
    for c, v in rest:
        if isinstance(c, Tensor):
            out = out.addcmul_(c, v)
        elif c:  # a term of weight 0 costs nothing
            out = out.add_(v, alpha=c)
    return out


def _sum(x: Tensor, c: Tensor | float, v: Tensor) -> Tensor | None:
    """x + c·v, as one pass over the latents; None where the terms have to be added one by one."""
    return torch.add(x, v, alpha=c) if isinstance(c, float) and c and v.dtype == x.dtype else None


def _coefficient(c: Tensor | float, like: Tensor) -> Tensor | float:
    if not isinstance(c, Tensor):
        return float(c)
    if c.ndim == 0:
        return c.item()  # on the CPU: reading it does not wait for a device
    return c.to(like.device, like.dtype, non_blocking=True)


def safe_div(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where |b| ≤ 1e-6: a frozen or missing interval leaves no usable history."""
    usable = b.abs() > 1e-6
    return torch.where(usable, a / torch.where(usable, b, 1.0), 0.0)


def phi_2(z: Tensor) -> Tensor:
    """1 − (1 − e^(−z))/z, the second-order weight of exponential integrators; 0 at z = 0."""
    return torch.where(z == 0, 0.0, 1 + torch.expm1(-z) / torch.where(z == 0, 1.0, z))


def by_order(order: Tensor, weights: Callable[[int], Sequence[Tensor]]) -> list[Tensor]:
    """Weights of a multistep sampler whose order differs between positions; 0 for history that a position lacks.

    Args:
        order: Order ≥ 1 at each position, of σ's shape.
        weights: k → the weights of order k; the first weights of all orders belong to the same latents.
    """
    if not order.ndim:
        return list(weights(int(order)))
    out: list[Tensor] = []
    for k in map(int, distinct(order)):
        for j, w in enumerate(weights(k)):
            if j == len(out):
                out.append(torch.zeros_like(w))
            out[j] = torch.where(order == k, w, out[j])
    return out


def filled(t: Tensor, size: int, axis: int) -> Tensor:
    """A tensor repeated along an axis and cut to `size` there; a view where the axis has one entry."""
    if t.shape[axis] == 1:
        return t.expand(*t.shape[:axis], size, *t.shape[axis + 1 :])
    times = [1] * t.ndim
    times[axis] = -(-size // t.shape[axis])
    return t.repeat(times).narrow(axis, 0, size)
