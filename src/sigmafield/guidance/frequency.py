"""Mods that act by frequency or by position: Fourier scaling of guidance, sharpening, tone mapping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.parameters import Range
from sigmafield.core.statistics import std
from sigmafield.guidance.hooks import Asked, Preds
from sigmafield.guidance.registry import mod

Gain = Annotated[float, Range(0, 10)]


def plane(z: Latent) -> tuple[int, ...]:
    """The axes of the image: the last two, or the last of [B, C, L]."""
    return (-2, -1) if z.ndim > 3 else (-1,)


def scaled_frequencies(z: Latent, low: float, high: float, edges: Sequence[int]) -> Latent:
    """A latent with its low frequencies times one factor and the others times another; the real part, of its dtype.

    A frequency j, in whole waves over the positions of an axis, is low where −edge ≤ j < edge along each axis of the
    image.

    Args:
        z: A latent, or features of a network.
        low: Factor of the low frequencies.
        high: Factor of the others.
        edges: Limit of the low frequencies along each axis of the image (see `plane`), in waves.
    """
    axes, wide = plane(z), z if z.dtype == torch.float64 else z.float()
    is_low = torch.ones((), dtype=torch.bool, device=z.device)
    for axis, edge in zip(axes, edges, strict=True):
        n = z.shape[axis]
        j = torch.fft.fftfreq(n, 1 / n, device=z.device).round()
        is_low = is_low & ((j >= -edge) & (j < edge)).reshape(-1, *[1] * (-1 - axis))
    factor = torch.where(is_low, low, high).to(wide.dtype)
    return torch.fft.ifftn(torch.fft.fftn(wide, dim=axes) * factor, dim=axes).real.to(z.dtype)


@mod("fresca", "before", "arXiv:2504.02154")
def fresca(
    p: Preds,
    at: Asked,
    *,
    scale_low: Gain = 1.0,
    scale_high: Gain = 1.25,
    freq_cutoff: Annotated[int, Range(1, 10000)] = 20,
) -> Preds:
    """FreSca: guidance with a strength for coarse content and another for fine content.

        C ← U + F⁻¹(f F(C − U)),   f = scale_low within freq_cutoff waves along both axes, scale_high elsewhere

    The limit is at most half the positions of an axis: at the default all frequencies of latents with an even number of
    positions up to 40 are low. Without U nothing is changed.

    Args:
        p: The predictions.
        at: What was asked.
        scale_low: Factor of the low frequencies.
        scale_high: Factor of the others.
        freq_cutoff: Limit of the low frequencies, in waves over the image.
    """
    if p.u is None:
        return p
    guided = p.c - p.u
    edges = [min(freq_cutoff, guided.shape[axis] // 2) for axis in plane(guided)]
    return p._replace(c=p.u + scaled_frequencies(guided, scale_low, scale_high, edges))


@mod("tonemap", "before", "ComfyUI (TonemapReinhard)")
def tonemap(p: Preds, at: Asked, *, multiplier: Annotated[float, Range(0, 100)] = 1.0) -> Preds:
    """Reinhard's tone mapping of guidance: long vectors of the difference are shortened.

        C ← U + T(C − U),   T(z) = z/(1 + M/top),   M = ‖z‖ over the channels,   top = (5 std(M) + mean(M)) multiplier

    Where U was not evaluated it is taken for 0, as in ComfyUI.

    Args:
        p: The predictions.
        at: What was asked.
        multiplier: Factor of the length at which vectors are halved.
    """
    return p._replace(c=p.against + reinhard(p.c - p.against, multiplier))


def reinhard(z: Latent, multiplier: float = 1.0) -> Latent:
    """Reinhard's tone mapping of a latent: see `tonemap`."""
    M = torch.linalg.vector_norm(z, dim=1, keepdim=True) + 1e-10
    top = (5 * std(M) + M.mean(tuple(range(1, z.ndim)), keepdim=True)) * multiplier
    return z * (top / (top + M))


@mod("sharpen", "before", "ComfyUI (LatentOperationSharpen)")
def sharpen(
    p: Preds,
    at: Asked,
    *,
    radius: Annotated[int, Range(1, 31)] = 9,
    sigma: Annotated[float, Range(0.1, 10)] = 1.0,
    alpha: Annotated[float, Range(0, 5)] = 0.1,
) -> Preds:
    """Unsharp masking of guidance's directions.

        C ← U + S(C − U),   S(z) = ‖z‖ ((1 + 10 α) n − 10 α K ∗ n),   n = z/‖z‖ over the channels,   α = alpha

    K is a Gaussian of 2 radius + 1 positions with the deviation sigma · radius; the latent is mirrored at its borders.
    Where U was not evaluated it is taken for 0, as in ComfyUI.

    Args:
        p: The predictions.
        at: What was asked.
        radius: Radius of the Gaussian in latent positions.
        sigma: Deviation of the Gaussian in terms of its radius.
        alpha: A tenth of the strength of the mask; 0 changes nothing.
    """
    return p._replace(c=p.against + unsharp(p.c - p.against, radius, sigma, alpha))


def unsharp(z: Latent, radius: int = 9, sigma: float = 1.0, alpha: float = 0.1) -> Latent:
    """Unsharp masking of a latent's directions: see `sharpen`."""
    length = torch.linalg.vector_norm(z, dim=1, keepdim=True) + 1e-6
    n = z / length
    line = torch.linspace(-1, 1, 2 * radius + 1, dtype=z.dtype, device=z.device)
    return length * ((1 + 10 * alpha) * n - 10 * alpha * smoothed(n, line, sigma))


def smoothed(z: Latent, line: Tensor, sigma: float) -> Latent:
    """A latent blurred along the image's axes by exp(−l²/2σ²) at the points l of a line, mirrored at its borders."""
    kernel = (-(line**2) / (2 * sigma**2)).exp()
    for axis in plane(z):
        z = convolved(z, kernel / kernel.sum(), axis)
    return z


def convolved(z: Latent, kernel: Tensor, axis: int) -> Latent:
    """The convolution of one axis, mirrored at its ends as often as the kernel needs it."""
    radius, n, turned = len(kernel) // 2, z.shape[axis], z.transpose(axis, -1)
    period = max(2 * (n - 1), 1)
    at = torch.arange(-radius, n + radius, device=z.device) % period
    lines = turned[..., torch.minimum(at, period - at)].reshape(-1, 1, n + 2 * radius)
    return F.conv1d(lines, kernel[None, None]).reshape(turned.shape).transpose(axis, -1)
