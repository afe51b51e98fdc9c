"""The source of noise that a sampler is given."""

from __future__ import annotations

from typing import Literal

from sigmafield.core.arrays import Latent
from sigmafield.core.grid import Grid
from sigmafield.core.protocols import Noise
from sigmafield.noise.brownian import Brownian
from sigmafield.noise.sources import Gaussian, Keyed, Pair, Silent, following

NoiseKind = Literal["none", "churn", "gaussian", "gaussian_pair", "brownian", "brownian_device"]
"""Kind of noise that a sampler draws, see `samplers.registry`."""


def default_noise(kind: NoiseKind, seed: int, grid: Grid, x: Latent) -> Noise:
    """The source that ComfyUI would give a sampler of this kind; for a σ-field, noise keyed by the sample.

    A stream on the CPU is seeded with seed + 1, because the initial noise was drawn there with `seed`; the second
    stream of a pair is seeded with 42 more. After 2⁶⁴ − 1 comes 0.

    Args:
        kind: Kind of noise.
        seed: Seed of the run.
        grid: Schedule of the run.
        x: Latent whose shape, dtype and device the noise has.
    """
    of_x = {"shape": x.shape, "dtype": x.dtype, "device": x.device}
    if kind == "none":
        return Silent()
    if grid.is_field:
        return Keyed([int(seed) + k for k in range(x.shape[0])], **of_x)
    if kind == "brownian":
        return Brownian(seed, grid, **of_x)
    if kind == "brownian_device":
        return Brownian(seed, grid, **of_x, drawn_on=x.device, times=x.dtype)
    if kind == "churn":
        return Gaussian(seed, **of_x)
    own = following(seed, int(x.device.type == "cpu"))
    if kind == "gaussian_pair":
        return Pair(Gaussian(own, **of_x), Gaussian(following(own, 42), **of_x))
    return Gaussian(own, **of_x)
