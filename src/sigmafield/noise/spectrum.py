"""Noise with a spectrum: coloured, pyramid, offset and Perlin noise, each a filter of white noise from any source.

A filter is a pure, linear function from white noise [B, C, *space] to noise of the same shape and of unit variance on
average. It mixes only positions within a channel of a sample. Because it is linear, a filtered Brownian path is again a
Brownian path: the increments of filtered noise add up as those of white noise do. A filter draws no numbers, so seeds,
resuming and independence of the batch are those of the source.

    noise = Shaped(Keyed(seeds, x.shape), partial(coloured, exponent=1.0))
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.parameters import check, parameters
from sigmafield.core.process import Span
from sigmafield.core.protocols import Noise
from sigmafield.core.registry import Spec, named

Filter = Callable[[Latent], Latent]
"""White noise → noise of unit variance; fix the parameters with functools.partial."""


@dataclass(frozen=True)
class Shaped:
    """The noise of a source, filtered. Its state is the source's.

    Args:
        source: Source of white noise.
        filter: Filter of the noise.
    """

    source: Noise
    filter: Filter

    def __call__(self, span: Span) -> Latent:
        return self.filter(self.source(span))

    def get_state(self) -> Tensor | None:
        return self.source.get_state()

    def set_state(self, state: Tensor | None) -> None:
        self.source.set_state(state)


def coloured(white: Latent, exponent: float) -> Latent:
    """Coloured noise: its power falls with frequency as a power law over all spatial axes together.

        P(f) ∝ f^(−exponent),   amplitude ∝ f^(−exponent/2),   f = √(Σ fₖ²) in cycles per pixel or frame

    The mean over space has the power of the lowest frequency above 0. Every pixel has variance 1. Timmer & König,
    Astron. Astrophys. 300 (1995).

    Args:
        white: White noise [B, C, *space].
        exponent: Any finite number: 0 is white, 1 pink, 2 brown (red), −1 blue, −2 violet.

    Raises:
        ValueError: If the exponent is not finite.
    """
    if not math.isfinite(exponent):
        raise ValueError(f"exponent must be a finite number; got {exponent}")
    space = white.shape[2:]
    f = torch.stack(torch.meshgrid(*_frequencies(space), indexing="ij")).square().sum(0).sqrt()
    positive = f[f > 0]
    f[f == 0] = positive.min() if len(positive) else 1.0
    return _filtered(white, f**-exponent)


def pyramid(white: Latent, discount: float = 0.8) -> Latent:
    """Multi-resolution noise: the sum of white noises of decreasing resolution, enlarged to the same size.

        ξ' ∝ ξ + Σₖ discountᵏ enlarge(ξₖ),   ξₖ at 1/2ᵏ of the resolution,   down to one number for the whole of space

    Enlarging is Fourier interpolation, with every ξₖ brought to unit variance. The sum then has the power 1 + Σₖ
    discount²ᵏ Bₖ, Bₖ flat over |fₐ| < 2^(−k−1) on every axis a. White noise filtered to this power has the same
    distribution and needs no further numbers. Every pixel has variance 1. J. Whitaker, "Multi-Resolution Noise for
    Diffusion Model Training" (2023).

    Args:
        white: White noise [B, C, *space].
        discount: Factor per level, at least 0; 0 leaves white noise.

    Raises:
        ValueError: If the discount is negative or not finite.
    """
    if not (math.isfinite(discount) and discount >= 0):
        raise ValueError(f"discount must be a finite number ≥ 0; got {discount}")
    highest = torch.stack(torch.meshgrid(*_frequencies(white.shape[2:]), indexing="ij")).amax(0)
    power, band, k = torch.ones_like(highest), torch.ones_like(highest), 0
    while band.sum() > 1:
        k += 1
        band = (highest < 0.5 ** (k + 1)).double()
        power += discount ** (2 * k) * band / band.mean()
    return _filtered(white, power)


def offset(white: Latent, strength: float = 0.1) -> Latent:
    """Offset noise: white noise plus one number per channel, which makes whole channels brighter or darker.

        ξ' = (ξ + s o)/√(1 + s²),   o ~ N(0, 1) for each sample and channel

    Instead of drawing o, the mean of ξ is enlarged by √(1 + N s²), N the number of pixels, which gives the same
    distribution. A channel's mean has variance (1/N + s²)/(1 + s²). Every pixel has variance 1. N. Guttenberg,
    "Diffusion with Offset Noise" (2023).

    Args:
        white: White noise [B, C, *space].
        strength: Strength s, at least 0; 0 leaves white noise.

    Raises:
        ValueError: If the strength is negative or not finite.
    """
    if not (math.isfinite(strength) and strength >= 0):
        raise ValueError(f"strength must be a finite number ≥ 0; got {strength}")
    more, scale = math.sqrt(1 + math.prod(white.shape[2:]) * strength**2) - 1, math.sqrt(1 + strength**2)
    return _each(white, lambda sample: (sample + more * sample.flatten(1).mean(1).reshape(_channels(sample))) / scale)


def perlin(white: Latent, cell: int = 8) -> Latent:
    """Gradient noise: random slopes at the corners of cells, blended in between; no detail finer than f = 2/cell.

        ξ' ∝ Σ_c (Πₐ wₐ) g_c · (p − c),   w = s(t) or 1 − s(t),   s(t) = 6 t⁵ − 15 t⁴ + 10 t³,  over a cell's corners c

    The slopes g are the first white numbers of a channel. Variance is 1 on average over the pixels and lower at the
    corners, where gradient noise is 0. K. Perlin, "Improving noise", SIGGRAPH 2002.

    Args:
        white: White noise [B, C, *space].
        cell: Edge of a cell in pixels (frames), large enough that a channel has as many numbers as slopes.

    Raises:
        ValueError: If the cell is too small.
    """
    space, axes = white.shape[2:], white.ndim - 2
    if cell < 1:
        raise ValueError(f"cell must be ≥ 1; got {cell}")
    corners = [math.floor((n - 0.5) / cell) + 2 for n in space]
    if (slopes := axes * math.prod(corners)) > (there := math.prod(space)):
        raise ValueError(f"cell {cell} needs {slopes} slopes, but {tuple(space)} has {there} numbers: enlarge it")
    g = white.flatten(2)[:, :, :slopes].reshape(*white.shape[:2], axes, *corners)
    at = [(torch.arange(n, dtype=torch.float64) + 0.5) / cell for n in space]
    first, t = [u.floor().long() for u in at], [u - u.floor() for u in at]
    fade = [((6 * u - 15) * u + 10) * u**3 for u in t]
    out, variance = torch.zeros_like(white), torch.zeros(space, dtype=torch.float64)
    for corner in itertools.product((0, 1), repeat=axes):
        weight = math.prod(_along(w if c else 1 - w, a, axes) for a, (w, c) in enumerate(zip(fade, corner)))
        index = torch.meshgrid(*(j + c for j, c in zip(first, corner)), indexing="ij")
        for a, c in enumerate(corner):
            term = weight * _along(t[a] - c, a, axes)
            out += g[:, :, a][(..., *index)] * term.to(white)
            variance += term**2
    return out / math.sqrt(variance.mean())


FILTERS: dict[str, Callable[..., Latent]] = {f.__name__: f for f in (coloured, pyramid, offset, perlin)}
"""The filters by name."""


def parse_filter(spec: Spec | None) -> Filter:
    """The filter that a spec names, such as pyramid(discount=0.8); None leaves noise as it is.

    Raises:
        ValueError: The name or a parameter is unknown, or a value is out of range.
    """
    if spec is None:
        return white
    function = named(FILTERS, spec.name, "noise")
    known = {parameter.name: parameter for parameter in parameters(function, _chosen)}
    return partial(function, **check(spec.name, known, spec.params))


def white(noise: Latent) -> Latent:
    """White noise as it is."""
    return noise


def _chosen(argument: inspect.Parameter) -> bool:
    """Whether an argument of a filter is a parameter of it, and not the noise."""
    return argument.name != "white"


def _frequencies(space: Sequence[int]) -> list[Tensor]:
    """|f| of every mode along each axis in cycles per pixel, 0 … ½; float64 on the CPU."""
    return [torch.fft.fftfreq(n, dtype=torch.float64).abs() for n in space]


def _filtered(white: Latent, power: Tensor) -> Latent:
    """White noise with its power over frequency [*space] multiplied by `power`, scaled to unit variance."""
    space, axes = white.shape[2:], tuple(range(1, white.ndim - 1))
    gain = (power / power.mean()).sqrt()[..., : space[-1] // 2 + 1].to(white)
    return _each(white, lambda sample: torch.fft.irfftn(torch.fft.rfftn(sample, dim=axes) * gain, s=space, dim=axes))


def _each(white: Latent, one: Callable[[Tensor], Tensor]) -> Latent:
    """Apply `one` sample by sample, so that the order of summation, and the last bit, does not depend on the batch."""
    return torch.stack([one(sample) for sample in white]) if len(white) else white


def _channels(sample: Tensor) -> tuple[int, ...]:
    return (len(sample), *[1] * (sample.ndim - 1))


def _along(values: Tensor, axis: int, axes: int) -> Tensor:
    """Values along one spatial axis, shaped to broadcast over the others."""
    return values.reshape([-1 if a == axis else 1 for a in range(axes)])
