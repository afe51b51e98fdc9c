"""Masks of fractal Perlin noise and of random numbers, between 0 and 1, as iterative mixing uses them."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor

from sigmafield.noise.sources import generator_of, randn

PERIOD = 255
"""Cells repeat after this many, as in the reference."""


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
    """n masks [n, height, width] in 0 … 1: improved Perlin noise in three dimensions, a sum over octaves.

        Σ_o A_o^(exponent + 1) noise(2^o (x, y, z)/scale),   A_o = persistence^o,   z = evolution k for mask k

    Then brought to 0 … 1 over all n together, (v + brightness)(1 + contrast), and clamped. Each mask has a permutation
    of its own from the seed, so its numbers do not depend on how many follow. scale: pixels a cell, 0.1 … 400;
    offset: of (x, y, z), in pixels. float32 on the CPU. K. Perlin, "Improving noise", SIGGRAPH 2002.
    Raises ValueError for a scale that is not above 0.
    """
    if not scale > 0:
        raise ValueError(f"scale must be above 0; got {scale}")
    (height, width), generator = size, generator_of(seed)
    y = torch.arange(height, dtype=torch.float32)[:, None] + offset[1]
    x = torch.arange(width, dtype=torch.float32)[None, :] + offset[0]
    masks = []
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
    """Perlin's improved noise at places that broadcast; table: a permutation of 0 … P − 1, used modulo P."""
    cells = [torch.floor(v) for v in (x, y, z)]
    place = [v - cell for v, cell in zip((x, y, z), cells)]
    corner = [(cell % PERIOD).long() for cell in cells]
    fade = [((6 * t - 15) * t + 10) * t**3 for t in place]

    def hashed(i: Tensor) -> Tensor:
        return table[i % len(table)]

    values = []
    for dz, dy, dx in itertools.product((0, 1), repeat=3):
        h = hashed(hashed(hashed(corner[0] + dx) + corner[1] + dy) + corner[2] + dz) & 15
        values.append(gradient(h, place[0] - dx, place[1] - dy, place[2] - dz))
    for t in fade:  # pairs that differ in x, then in y, then in z
        values = [a + t * (b - a) for a, b in zip(values[::2], values[1::2])]
    return values[0]


def gradient(h: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The product of (x, y, z) with one of twelve directions to the middles of a cube's edges, chosen by h = 0 … 15."""
    u = torch.where(h < 8, x, y)
    v = torch.where(h < 4, y, torch.where((h == 12) | (h == 14), x, z))
    return torch.where(h & 1 == 0, u, -u) + torch.where(h & 2 == 0, v, -v)


def masks(
    kind: Literal["perlin", "random"], n: int, width: int, height: int, seed: int, perlin_scale: float = 10.0
) -> Tensor:
    """n masks [n, 1, height/8, width/8] for images of that size: `perlin_masks`, or standard normal numbers."""
    size = (height // 8, width // 8)
    if kind == "perlin":
        return perlin_masks(n, size, seed, scale=perlin_scale)[:, None]
    return randn(seed, (n, 1, *size))
