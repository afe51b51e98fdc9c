"""Noise of the levels of a schedule, and a latent noised to one of them: what iterative mixing blends with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.linear import lincomb
from sigmafield.core.process import Process
from sigmafield.noise.sources import generator_of, randn, seed_word


@runtime_checkable
class LevelNoise(Protocol):
    """Unit-variance noise as a function of (pass, level), so that a run can be resumed anywhere."""

    def __call__(self, rewind: int, level: int, /) -> Latent: ...


@dataclass(frozen=True)
class KeyedLevels:
    """Noise that is a function of (the sample's seed, pass, level) only, drawn on the CPU.

    Args:
        seeds: One seed per sample.
        shape: Shape of the latent, [B, C, *space].
        dtype: Type of the noise.
        device: Device that the noise is moved to.
        shared: Whether all levels of a pass get the same noise, as in DemoFusion.

    Raises:
        ValueError: The number of seeds is not the batch size.
    """

    seeds: Sequence[int]
    shape: Sequence[int]
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"
    shared: bool = False

    def __post_init__(self) -> None:
        if len(self.seeds) != self.shape[0]:
            raise ValueError(f"seeds must be one per sample: got {len(self.seeds)} for a batch of {self.shape[0]}")

    def __call__(self, rewind: int, level: int) -> Latent:
        key = (rewind, 0 if self.shared else level)
        drawn = [randn(seed_word(seed, key, np.uint64), self.shape[1:], self.dtype) for seed in self.seeds]
        return torch.stack(drawn).to(self.device)


class StreamLevels:
    """Noise of all levels of a pass in one draw from a CPU generator, pass after pass, in the reference's order.

    The noise of the latest pass is kept in memory.

    Args:
        seed: Seed of the generator; the reference draws from torch's global one.
        shape: Shape of the latent, [B, C, *space].
        levels: Number of levels of each pass, see `Mixing.levels`.
        dtype: Type of the noise.
        device: Device that the noise is moved to.
    """

    def __init__(
        self,
        seed: int,
        shape: Sequence[int],
        levels: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        self._seed, self._shape, self._levels = seed, tuple(shape), tuple(levels)
        self._dtype, self._device = dtype, device
        self._latest: tuple[int, Tensor] = (-1, torch.empty(0))

    def __call__(self, rewind: int, level: int) -> Latent:
        if self._latest[0] != rewind:
            generator, drawn = generator_of(self._seed), torch.empty(0)
            for n in self._levels[: rewind + 1]:
                drawn = randn(generator, (n, *self._shape), self._dtype)
            self._latest = rewind, drawn
        return self._latest[1][level].to(self._device)


def noised(source: Latent, sigma: Sigma, noise: Latent, process: Process) -> Latent:
    """The source at a noise level, z = α s + σ r; unlike the start of a run, never scaled up to √(1 + σ²)."""
    return lincomb(process.alpha(sigma), source, sigma, noise)
