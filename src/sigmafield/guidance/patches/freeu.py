"""FreeU: the decoder of a U-Net trusts its backbone more and the low frequencies of its skips less.

Pure functions of what meets at a decoder block: h from below, and the skip. Si et al., arXiv:2309.11497.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sigmafield.guidance.frequency import scaled_frequencies
from sigmafield.guidance.norms import TINY

Features = Float[Tensor, "batch _ *space"]
"""Featuress within a network: h and the skip need not have as many channels."""


def freeu(
    h: Features,
    skip: Features,
    model_channels: int,
    *,
    b1: float = 1.1,
    b2: float = 1.2,
    s1: float = 0.9,
    s2: float = 0.2,
) -> tuple[Features, Features]:
    """(h, skip) of FreeU: the first half of h's channels times b, the skip's frequencies −1 and 0 times s.

    (b1, s1) where h has 4 model_channels channels, (b2, s2) where it has 2, nothing elsewhere; model_channels is 320
    for Stable Diffusion 1, 2 and XL. Lower s suppresses more, 1 nothing.
    """
    return _at(h, skip, model_channels, (b1, s1), (b2, s2), lambda h, b: torch.full_like(h[:1, :1], b))


def freeu_v2(
    h: Features,
    skip: Features,
    model_channels: int,
    *,
    b1: float = 1.3,
    b2: float = 1.4,
    s1: float = 0.9,
    s2: float = 0.2,
) -> tuple[Features, Features]:
    """(h, skip) of FreeU's second version: as `freeu`, with a factor of 1 + (b − 1) μ̂ at each place.

    μ̂ is the mean of h's channels, from 0 at its smallest place to 1 at its largest; 0 where all are equal.
    """
    return _at(h, skip, model_channels, (b1, s1), (b2, s2), _by_mean)


def _by_mean(h: Features, b: float) -> Tensor:
    axes = tuple(range(1, h.ndim))
    mean = h.mean(1, keepdim=True)
    low, high = mean.amin(axes, keepdim=True), mean.amax(axes, keepdim=True)
    return (b - 1) * (mean - low) / (high - low).clamp(min=TINY) + 1


def _at(
    h: Features,
    skip: Features,
    model_channels: int,
    deep: tuple[float, float],
    middle: tuple[float, float],
    factor: Callable[[Features, float], Tensor],
) -> tuple[Features, Features]:
    chosen = {4 * model_channels: deep, 2 * model_channels: middle}.get(h.shape[1])
    if chosen is None:
        return h, skip
    b, s = chosen
    half = h.shape[1] // 2
    return torch.cat([h[:, :half] * factor(h, b), h[:, half:]], 1), scaled_frequencies(skip, s, 1.0, cutoff=1)
