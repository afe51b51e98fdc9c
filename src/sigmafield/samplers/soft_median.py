"""Outlier-resistant means of slopes, and the other operations that distance samplers apply to slopes.

A *matrix* is a slice over the last two axes: a channel of an image, a channel of a video frame, or a whole sample where
there is only one spatial axis. Norms ‖·‖ and products ⟨·,·⟩ are those of a matrix. Samples do not affect each other
except where stated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.typed import vector_norm

PARALLEL = 1 - 1e-4
"""Slopes whose cosine is beyond ± this value count as parallel or as opposite."""


def matrix_norm(x: Tensor) -> Tensor:
    """‖x‖ of every matrix, with the reduced axes kept at length 1.

    Without spatial axes, the channels of a sample form its matrix.
    """
    return vector_norm(x, dim=_matrix(x), keepdim=True)


def unit(x: Tensor) -> Tensor:
    """x/‖x‖ of every matrix; 0 where the norm is 0."""
    return _over(x, matrix_norm(x))


def weights(slopes: Sequence[Latent], u: Latent | None = None, *, softmax: bool = False) -> list[Tensor]:
    """Elementwise weights of n slopes; they sum to 1, and slopes far from the others count less.

        δ_j = Σ_i |Y_i − Y_j|,   Y = T/‖T‖,   v_j = max_k δ_k − δ_j (+ |Y_j − u/‖u‖|)
        w_j = v_j²/Σ_k v_k²   or   softmax_j(n v_j)

    Y = 0 where ‖T‖ = 0. Without u the farthest slope has weight 0 (unless softmax). Where all distances δ_j are equal,
    as they are where all are 0, w = 1/n; the reference divides 0 by 0 there, which makes a whole matrix NaN.

    Args:
        slopes: Slopes T_1 … T_n of one shape.
        u: Latent to keep away from, or None.
        softmax: Whether to use the softmax instead of squares.
    """
    n, Y = len(slopes), torch.stack([unit(T) for T in slopes])
    delta = torch.stack([_total((Y - y).abs()) for y in Y])
    v = delta.amax(0) - delta
    if u is not None:
        v = v + (Y - unit(u)).abs()
    if softmax:
        return list((n * v).softmax(0))
    most = v.amax(0)
    v = torch.where(most == 0, 1.0, v / most).square()
    return list(v / _total(v))


def weighted(slopes: Sequence[Latent], w: Sequence[Tensor]) -> Latent:
    """Weighted mean of the slopes, scaled to the weighted mean of their norms.

        r/‖r‖ Σ_j w_j ‖T_j‖,   r = Σ_j w_j T_j

    The last factor varies from element to element, as w does.

    Args:
        slopes: Slopes T_1 … T_n of one shape.
        w: Their elementwise weights.
    """
    r, size = torch.zeros_like(slopes[0]), torch.zeros_like(slopes[0])
    for T, k in zip(slopes, w):
        r, size = r + k * T, size + k * matrix_norm(T)
    return unit(r) * size


def slerped(slopes: Sequence[Latent], w: Sequence[Tensor]) -> Latent:
    """Spherical interpolation over all pairs of n slopes, n ≥ 2.

        Σ_j T_j Σ_{k≠j} sin(w_j ω_jk/(n − 1))/sin ω_jk,   cos ω_jk = ⟨T_j, T_k⟩/(‖T_j‖ ‖T_k‖) at most 1 − 10⁻⁴

    There is one angle per pair of matrices. For slopes that agree the result is close to `weighted`; for unrelated
    slopes it is shorter, the more so the larger n is. No great circle joins opposite slopes, with a cosine below
    10⁻⁴ − 1, so that they are interpolated linearly: w_j/(n − 1) takes the place of the ratio of sines. The reference
    makes them up to 70 times as long.

    Args:
        slopes: Slopes T_1 … T_n of one shape.
        w: Their elementwise weights.
    """
    n, Y = len(slopes), torch.stack([unit(T) for T in slopes])
    out = torch.zeros_like(slopes[0])
    for j, (T, k) in enumerate(zip(slopes, w)):
        others = torch.cat([Y[:j], Y[j + 1 :]])
        cosine = (Y[j] * others).sum(_matrix(T), keepdim=True)
        omega = cosine.clamp(-PARALLEL, PARALLEL).arccos()
        sines = (k * (omega / (n - 1))).sin() / omega.sin()
        out = out + T * _total(torch.where(cosine < -PARALLEL, k / (n - 1), sines))
    return out


def combine(
    slopes: Sequence[Latent], u: Latent | None = None, *, use_softmax: bool = False, use_slerp: bool = False
) -> Latent:
    """Soft median of slopes: `weighted` or `slerped` with their `weights`.

    Args:
        slopes: Slopes of one shape, at least 2 with use_slerp.
        u: Latent to keep away from, or None.
        use_softmax: Whether the weights are a softmax.
        use_slerp: Whether to use `slerped` instead of `weighted`.
    """
    w = weights(slopes, u, softmax=use_softmax)
    return slerped(slopes, w) if use_slerp else weighted(slopes, w)


def sharpened(a: Latent, b: Latent, strength: float = 1.0, *, per_sample: bool = False) -> Latent:
    """a with the direction of b subtracted where the two differ most.

        a' = â − strength b̂ M,   result a' ‖a‖/‖a'‖,   M = |â − b̂| rescaled to 0 … 1 over the whole batch

    Here ‖·‖ is the norm over the channels of a position; where it is 0, so is the direction. Where |â − b̂| is the
    same everywhere, the result is a. The batch shares its smallest and largest difference, so a sample depends on the
    others.

    Args:
        a: Slope to change [B, C, *space].
        b: Previous slope, of the same shape.
        strength: Factor on what is subtracted.
        per_sample: Whether each sample has its own smallest and largest difference.
    """
    size = vector_norm(a, 1, keepdim=True)
    a_unit, b_unit = _over(a, size), _over(b, vector_norm(b, 1, keepdim=True))
    apart = (a_unit - b_unit).abs()
    over = _all(apart, per_sample)
    least = apart.amin(over, keepdim=True)
    turned = a_unit - strength * b_unit * ((apart - least) / (apart.amax(over, keepdim=True) - least))
    out = turned * size / vector_norm(turned, 1, keepdim=True)
    return torch.where(out.isfinite(), out, a)


def perpendicular(a: Latent, b: Latent, strength: float = 0.5, *, per_matrix: bool = False) -> Latent:
    """a with the part of b that is perpendicular to it subtracted.

        a − strength ‖a‖ (Y − q X),   X = a/‖a‖,   Y = b/‖b‖,   q = ⟨X, Y⟩ summed over the whole batch, within ±1

    Every matrix adds its cosine to q, so with more than one matrix q is mostly at a bound, and a sample depends on the
    others. With per_matrix, each matrix has its own q, for which Y − q X is perpendicular to a.

    Args:
        a: Slope to change [B, C, *space].
        b: Previous slope, of the same shape.
        strength: Length of what is subtracted, relative to ‖a‖.
        per_matrix: Whether each matrix has its own q.
    """
    size, X, Y = matrix_norm(a), unit(a), unit(b)
    q = (X * Y).sum(_matrix(a), keepdim=True) if per_matrix else (X * Y).sum()
    return a - strength * size * (Y - q.clamp(-1, 1) * X)


def smoothed(D: Latent, *, per_sample: bool = False) -> Latent:
    """D with its contrast evened out: D₁/√std(D₁), D₁ = |D|^p sign D, p = 1/√std(D).

    It brightens the image. The standard deviation is taken over the whole batch, so a sample depends on the others.
    Where it is 0, or so small that the power overflows, D is not changed.

    Args:
        D: Clean latent [B, C, *space].
        per_sample: Whether the standard deviation is taken over each sample.
    """
    over = _all(D, per_sample)
    bent = D.abs() ** D.std(over, keepdim=True).rsqrt() * D.sign()
    out = bent * bent.std(over, keepdim=True).rsqrt()
    return torch.where(out.isfinite(), out, D)


def _total(x: Tensor) -> Tensor:
    """Sum over the first axis in sequence: the order of summation in `Tensor.sum` depends on the batch size."""
    return x.cumsum(0)[-1]


def _matrix(x: Tensor) -> tuple[int, ...]:
    """Axes of a matrix."""
    return (-2, -1) if x.ndim > 2 else (-1,)


def _all(x: Tensor, per_sample: bool) -> tuple[int, ...]:
    """Axes of the whole batch, or of one sample."""
    return tuple(range(1 if per_sample else 0, x.ndim))


def _over(x: Tensor, size: Tensor) -> Tensor:
    """x/size, and 0 where size is 0."""
    return torch.where(size == 0, 0.0, x / size)
