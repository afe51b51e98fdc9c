"""Masks of fractal Perlin noise and of random numbers, between 0 and 1, as iterative mixing uses them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from sigmafield.noise.sources import generator_of, randn

PERIOD = 255
"""The lattice cells repeat with this period, as in the reference."""

MaskMode = Literal["masks", "latents", "matched_noise"]


@dataclass(frozen=True)
class Perlin:
    """Perlin masks P, one per step of a pass, applied to the state after a blend; c' = 1 + strength (c − 1).

        latents:       x ← x (c' + P (1 − c'))
        masks:         x ← (1 − P) x + P (c'' x + (1 − c'') y), y = x after one more step, c'' of that step;
                       not after the last step; it costs the evaluations of the extra step
        matched_noise: x ← c' x + (1 − c') P

    All samples and channels get the same masks.

    Args:
        mode: What is done with a mask, as above.
        strength: How strongly the masks act; 0 leaves x as it is.
        scale: Latent pixels per lattice cell of the noise.
        seed: Seed of the masks.
    """

    mode: MaskMode = "masks"
    strength: float = 0.75
    scale: float = 10.0
    seed: int = 0


@lru_cache(maxsize=8)
def masks_of_pass(n: int, height: int, width: int, seed: int, scale: float) -> Tensor:
    """The masks [n, height, width] of a pass, made once for all of its steps."""
    return perlin_masks(n, (height, width), seed, scale=scale)


def perlin_masks(
    n: int,
    size: tuple[int, int],
    seed: int | torch.Generator,
    *,
    scale: float = 10.0,
    octaves: int = 4,
    persistence: float = 0.5,
    exponent: float = 4.0,
    evolution: float = 0.1,
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
    brightness: float = 0.0,
    contrast: float = 0.0,
) -> Tensor:
    """n masks [n, height, width] in 0 … 1, float32 on the CPU: improved Perlin noise in 3D, summed over octaves.

        Σ_o A_o^(exponent + 1) noise(2^o (x, y, z)/scale),   A_o = persistence^o,   z = evolution k for mask k

    The sum is brought to 0 … 1 over all n masks together, then (v + brightness)(1 + contrast) is clamped to 0 … 1. Each
    mask has its own permutation table from the seed, so the lattice values of mask k do not depend on n.
    K. Perlin, "Improving noise", SIGGRAPH 2002.

    Args:
        n: Number of masks.
        size: (height, width) in latent pixels.
        seed: Seed, or a generator.
        scale: Pixels per lattice cell, above 0.
        octaves: Number of octaves.
        persistence: Ratio of the amplitudes of successive octaves.
        exponent: Power of the amplitudes, less 1.
        evolution: Distance in z between successive masks.
        offset: Offset of (x, y, z) in pixels.
        brightness: Added to the masks.
        contrast: Relative increase of the contrast.

    Raises:
        ValueError: `scale` is not above 0.
    """
    if not scale > 0:
        raise ValueError(f"scale must be above 0; got {scale}")
    (height, width), generator = size, generator_of(seed)
    y = torch.arange(height, dtype=torch.float32)[:, None] + offset[1]
    x = torch.arange(width, dtype=torch.float32)[None, :] + offset[0]
    masks: list[Tensor] = []
    for k in range(n):
        table = torch.randperm(max(height, width) ** 2, generator=generator)
        z = torch.tensor(evolution * k + offset[2])
        value = torch.zeros(height, width)
        for octave in range(octaves):
            rate, amplitude = 2**octave / scale, persistence**octave
            value += amplitude ** (exponent + 1) * improved_noise(x * rate, y * rate, z * rate, table)
        masks.append(value)
    stack = torch.stack(masks) if masks else torch.empty(0, height, width)
    if stack.numel():
        stack = (stack - stack.min()) / (stack.max() - stack.min()).clamp(min=1e-12)
    return ((stack + brightness) * (1 + contrast)).clamp(0, 1)


def improved_noise(x: Tensor, y: Tensor, z: Tensor, table: Tensor) -> Tensor:
    """Perlin's improved noise at coordinates that broadcast; `table` is a permutation of 0 … P − 1, used modulo P."""
    cells = [torch.floor(v) for v in (x, y, z)]
    inside = [v - cell for v, cell in zip((x, y, z), cells)]
    corner = [(cell % PERIOD).long() for cell in cells]
    fade = [((6 * t - 15) * t + 10) * t**3 for t in inside]

    def hashed(i: Tensor) -> Tensor:
        return table[i % len(table)]

    values: list[Tensor] = []
    for dz, dy, dx in itertools.product((0, 1), repeat=3):
        h = hashed(hashed(hashed(corner[0] + dx) + corner[1] + dy) + corner[2] + dz) & 15
        values.append(gradient(h, inside[0] - dx, inside[1] - dy, inside[2] - dz))
    for t in fade:  # pairs that differ in x, then in y, then in z
        values = [a + t * (b - a) for a, b in zip(values[::2], values[1::2])]
    return values[0]


def gradient(h: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The dot product of (x, y, z) with one of 12 directions, to the middles of a cube's edges; h = 0 … 15."""
    u = torch.where(h < 8, x, y)
    v = torch.where(h < 4, y, torch.where((h == 12) | (h == 14), x, z))
    return torch.where(h & 1 == 0, u, -u) + torch.where(h & 2 == 0, v, -v)


def masks(
    kind: Literal["perlin", "random"], n: int, width: int, height: int, seed: int, perlin_scale: float = 10.0
) -> Tensor:
    """n masks [n, 1, height/8, width/8] for images of a size in pixels: `perlin_masks`, or standard normal numbers."""
    size = (height // 8, width // 8)
    if kind == "perlin":
        return perlin_masks(n, size, seed, scale=perlin_scale)[:, None]
    return randn(seed, (n, 1, *size))
