"""Long latents in windows: which positions of an axis a network is shown together, and how its answers are fused.

Lists of windows are pure functions of sizes and of the step; a window is a tuple of positions, in the order in which
the network sees them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond
from sigmafield.core.fitting import transformed
from sigmafield.core.parameters import Range
from sigmafield.core.process import Span
from sigmafield.core.protocols import Ctx, Model
from sigmafield.core.views import along, index_on, positions, samples
from sigmafield.noise.sources import generator_of

Window = tuple[int, ...]
Windows = tuple[Window, ...]
Schedule = Literal["standard_static", "standard_uniform", "looped_uniform", "batched"]
Fuse = Literal["pyramid", "relative", "flat", "overlap_linear"]


def standard_static(size: int, length: int, overlap: int) -> Windows:
    """Windows of equal length from 0 on, each `overlap` positions into the next; the last is moved back to the end."""
    starts = [*range(0, size - length, length - overlap), size - length]
    return tuple(tuple(range(first, first + length)) for first in starts)


def batched(size: int, length: int) -> Windows:
    """Windows side by side; the last one may be shorter."""
    return tuple(tuple(range(first, min(first + length, size))) for first in range(0, size, length))


def looped_uniform(size: int, length: int, overlap: int, stride: int, closed_loop: bool, step: int) -> Windows:
    """Windows over a ring, of every first, second, fourth … position, which begin elsewhere at each step.

        {(j + i d) mod size, i < length},   d = 2^p,   p < min(stride, ⌈log₂(size/length)⌉ + 1)

    j goes from ⌊R d⌋ + pad to size + pad, by length · d − overlap, pad = round(size R), and ends before the last
    overlap unless the loop is closed; R = 0, ½, ¼, ¾ …: the step's bits, reversed. A window of a wide d may come to a
    position again: `weights` says which of the two counts.
    """
    shift = reversed_bits(step)
    pad, end = round(size * shift), 0 if closed_loop else overlap
    out = []
    for d in strides(size, length, stride):
        starts = range(int(shift * d) + pad, size + pad - end, length * d - overlap)
        out += [tuple((j + i * d) % size for i in range(length)) for j in starts]
    return tuple(out)


def standard_uniform(size: int, length: int, overlap: int, stride: int, step: int) -> Windows:
    """`looped_uniform` without the ring: a window that wraps is moved back to the end, and one at 0 is added for it.

    The one at 0 is left out where the next window has the position at which this one wrapped, unless positions would be
    left without a window. Each window is there once; a d whose window does not fit, (length − 1) d ≥ size, is left out.
    """
    out = list(looped_uniform(size, length, overlap, fitting(size, length, stride), False, step))
    k = 0
    while k < len(out):
        window = out[k]
        wrap = next((i for i in range(1, length) if window[i] < window[i - 1]), None)
        k += 1
        if wrap is None:
            continue
        low, last = window[wrap], (window[-1] - window[0]) % size
        out[k - 1] = tuple((w - window[0]) % size + size - 1 - last for w in window)
        if low not in out[k % len(out)]:  # the first one follows the last
            out.insert(k, tuple(range(low, low + length)))
    while left := set(range(size)).difference(*out):
        first = min(min(left), size - length)
        out.append(tuple(range(first, first + length)))
    return tuple(dict.fromkeys(out))


def strides(size: int, length: int, stride: int) -> list[int]:
    """The distances d = 1, 2, 4 … between neighbouring positions of a window."""
    return [2**p for p in range(min(stride, math.ceil(math.log2(size / length)) + 1))]


def fitting(size: int, length: int, stride: int) -> int:
    """How many of the strides leave a window within the axis; the first one always does."""
    return sum((length - 1) * d < size for d in strides(size, length, stride))


def reversed_bits(step: int) -> float:
    """The step's 64 bits in reverse, as a share of 2⁶⁴: 0, ½, ¼, ¾, ⅛ …"""
    return int(f"{step:064b}"[::-1], 2) / 2**64


@lru_cache(maxsize=64)
def windows_of(
    schedule: Schedule, size: int, length: int, overlap: int, stride: int, closed_loop: bool, step: int
) -> Windows:
    """The windows of one step, which together hold every position; one window where the axis is not longer than it."""
    if size <= length:
        return (tuple(range(size)),)
    if schedule == "standard_static":
        return standard_static(size, length, overlap)
    if schedule == "batched":
        return batched(size, length)
    if schedule == "looped_uniform":
        return looped_uniform(size, length, overlap, stride, closed_loop, step)
    return standard_uniform(size, length, overlap, stride, step)


def step_of(sigma: Sigma, span: Span) -> int:
    """The step whose level is σ; between two levels that of the larger one. For a field, the step of the run."""
    if span.sigmas is None or span.sigmas.ndim > 1 or sigma.ndim:
        return span.i
    near = (span.sigmas - sigma).abs() <= 1e-8 + 1e-4 * sigma
    if near.any():
        return int(near.nonzero()[0])
    return max(int((span.sigmas > sigma).sum()) - 1, 0)


def weights(fuse: Fuse, window: Window, size: int, overlap: int) -> Float64[Tensor, "positions"]:
    """How much each position of a window counts.

    flat            1
    pyramid         min(i + 1, n − i)                    i the number of the position in the window
    relative        max(0.01, 1 − |j − m|/half)          j the position, m the middle of the window
    overlap_linear  1, rising over the first `overlap` positions and falling over the last, except at the ends of
                    the axis

    Where a window shows a position twice, the last one counts, and with `relative` both do, as in ComfyUI.
    """
    w = _weights(fuse, window, size, overlap)
    if fuse != "relative":
        again = set[int]()
        for i in reversed(range(len(window))):
            if window[i] in again:
                w[i] = 0
            again.add(window[i])
    return w


def _weights(fuse: Fuse, window: Window, size: int, overlap: int) -> Float64[Tensor, "positions"]:
    """The weights without regard to positions that are shown twice."""
    n = len(window)
    if fuse == "pyramid":
        return torch.tensor([min(i + 1, n - i) for i in range(n)], dtype=torch.float64)
    if fuse == "relative":
        at = torch.tensor(window, dtype=torch.float64)
        half = (window[-1] - window[0] + 0.01) / 2
        return (1 - (at - (window[0] + window[-1]) / 2).abs() / half).clamp(min=0.01)
    w = torch.ones(n, dtype=torch.float64)
    ramp = min(overlap, n) if fuse == "overlap_linear" else 0
    if ramp and min(window) > 0:
        w[:ramp] = torch.linspace(1e-37, 1, ramp, dtype=torch.float64)
    if ramp and max(window) < size - 1:
        w[n - ramp :] = torch.linspace(1, 1e-37, ramp, dtype=torch.float64)
    return w


@lru_cache(maxsize=64)
def shares(fuse: Fuse, windows: Windows, size: int, overlap: int) -> tuple[Tensor, ...]:
    """The windows' weights over their sum at each position."""
    own = [weights(fuse, window, size, overlap) for window in windows]
    total = torch.zeros(size, dtype=torch.float64)
    for window, w in zip(windows, own):
        total.index_add_(0, torch.tensor(window), w)
    return tuple(w / total[list(window)] for window, w in zip(windows, own))


def context(
    model: Model,
    *,
    length: Annotated[int, Range("overlap", 10000, above=True)] = 16,
    overlap: Annotated[int, Range(0, "length", below=True)] = 4,
    schedule: Schedule = "standard_static",
    stride: Annotated[int, Range(1, 32)] = 1,
    closed_loop: bool = False,
    fuse: Fuse = "pyramid",
    dim: Literal[0, 2, 3, 4] = 2,
) -> Model:
    """Context windows: the network is shown a part of a long axis at a time, and its predictions are fused.

        D = Σ w D_window/Σ w

    Each window is a network call, and the memory needed is that of one. Conditionings are cut along. A latent that is
    not longer than one window is not changed. Wan's latent positions are 4 frames each except the first: n frames are
    (n − 1)/4 + 1 positions. arXiv:2310.15169.

    Args:
        model: The network.
        length: Positions that the network is shown at a time.
        overlap: Positions that neighbouring windows share.
        schedule: standard_static, the same windows at each step; standard_uniform, other windows at each step, also of
            every second, fourth … position; looped_uniform, these on a ring; batched, windows without overlap.
        stride: How many kinds of windows standard_uniform and looped_uniform have: of every, every second, every
            fourth … position.
        closed_loop: Whether looped_uniform joins the ends of the axis as well.
        fuse: Weights within a window: pyramid, relative and overlap_linear are largest in its middle, flat is 1.
        dim: The axis: 2, the frames of [B, C, frames, height, width]; 3 or 4, the sides of an image; 0, the samples of
            a batch that are the frames of one video.

    Raises:
        ValueError: The latent does not have the axis.
    """

    def windowed(x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx) -> list[Tensor]:
        if dim >= x.ndim:
            raise ValueError(f"context needs latents with an axis {dim}; got shape {tuple(x.shape)}")
        size = x.shape[dim] if dim else len(x) // len(conds)
        if size <= length:
            return model(x, sigma, conds, ctx)
        step = step_of(sigma, ctx.span)
        windows = windows_of(schedule, size, length, overlap, stride, closed_loop, step)
        out = [x.new_zeros(len(x) // len(conds), *x.shape[1:]) for _ in conds]
        for window, share in zip(windows, shares(fuse, windows, size, overlap)):
            want = None if ctx.want is None else field_in(ctx.want, window, dim)
            if want is not None and not want.any():
                continue
            view = positions(window, dim - x.ndim) if dim else samples(window)
            shown = along(x if dim else x.unflatten(0, (len(conds), size)), window, dim or 1)
            own = [transformed(cond, view) for cond in conds]
            inner = replace(ctx, want=want, part=(*ctx.part, window))
            answers = model(shown if dim else shown.flatten(0, 1), field_in(sigma, window, dim), own, inner)
            at, w = index_on(x, window), share.reshape(-1, *[1] * (x.ndim - dim - 1))
            w = w.to(x.device, x.dtype, non_blocking=True)
            for total, D in zip(out, answers):
                total.index_add_(dim, at, D.to(total) * w)
        return out

    return windowed


def field_in(field: Tensor, window: Window, dim: int) -> Tensor:
    """The part of a noise level or a mask in a window; one that does not vary along the axis as it is."""
    return along(field, window, dim) if field.ndim and field.shape[dim] > 1 else field


def free_noise(noise: Latent, length: int = 16, overlap: int = 4, seed: int = 0, dim: int = 2) -> Latent:
    """Noise for long latents in windows: what follows a window is noise from it, shuffled.

    Windows then begin from the same noise and agree on what they show: the positions from q + length on are those from
    q on in another order, for q = 0, δ, 2δ …, δ = length − overlap. Qiu et al., FreeNoise, arXiv:2310.15169.

    Args:
        noise: Noise of the latent's shape.
        length: Positions of a window.
        overlap: Positions that neighbouring windows share.
        seed: Of the orders, which are drawn on the CPU.
        dim: The axis.

    Raises:
        ValueError: The overlap is not below the length, or the noise does not have the axis.
    """
    if not 0 <= overlap < length:
        raise ValueError(f"free_noise needs 0 ≤ overlap < length; got {overlap} and length = {length}")
    if not 0 <= dim < noise.ndim:
        raise ValueError(f"free_noise needs noise with an axis {dim}; got shape {tuple(noise.shape)}")
    size, step, stream = noise.shape[dim], length - overlap, generator_of(seed)
    order = list(range(size))
    for first in range(0, size - length, step):
        count = min(step, size - first - length)
        shuffled = [order[first + k] for k in torch.randperm(count, generator=stream).tolist()]
        order[first + length : first + length + count] = shuffled
    return along(noise, tuple(order), dim)
