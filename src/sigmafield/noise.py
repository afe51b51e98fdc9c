"""Sources of unit-variance noise: keyed per sample, or one sequential stream. `brownian` has a path in σ.

A source is called with the interval that asks. What it remembers between steps is read and set with
get_state / set_state, so a run can stop and continue, and two runs may share a source.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sigmafield.grid import Span
from sigmafield.types import Latent

Device = torch.device | str


def randn(seed: int, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: Device = "cpu") -> Tensor:
    """Standard normal numbers of a fresh generator on `device`; 0 ≤ seed < 2⁶⁴."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be 0 … 2**64 - 1; got {seed}")
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=dtype, device=device)


class Silent:
    """No noise: raises RuntimeError when asked. What a method gets that draws none."""

    def __call__(self, span: Span) -> Latent:
        raise RuntimeError(f"step {span.i} asked for noise, but its method is declared to draw none")

    def get_state(self) -> None:
        return None

    def set_state(self, state: Tensor | None) -> None:
        pass


class Gaussian:
    """One sequential stream for the whole batch, in the order of the draws: what ComfyUI uses.

    seed: of a torch generator on `device`; a sample's noise depends on the batch that it is in.
    """

    def __init__(self, seed: int, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: Device = "cpu"):
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be 0 … 2**64 - 1; got {seed}")
        self._like = torch.empty(tuple(shape), dtype=dtype, device=device)
        self._generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, span: Span) -> Latent:
        return self.draw()

    def draw(self) -> Tensor:
        """The stream's next numbers."""
        like = self._like
        return torch.randn(like.shape, generator=self._generator, dtype=like.dtype, device=like.device)

    def get_state(self) -> Tensor:
        return self._generator.get_state()

    def set_state(self, state: Tensor | None) -> None:
        if state is not None:
            self._generator.set_state(state)


class Keyed:
    """Noise that is a function of (the sample's seed, step, draw within the step), and of nothing else.

    seeds: one per sample, so that picture k is the same in any batch; nothing to store, any order of steps.
    shape: of the whole latent [B, …] with B = len(seeds). Always drawn on the CPU, so devices agree.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
    ):
        if len(seeds) != shape[0]:
            raise ValueError(f"seeds must name one seed a sample: got {len(seeds)} for a batch of {shape[0]}")
        self._seeds, self._shape, self._dtype, self._device = tuple(seeds), tuple(shape), dtype, device
        self._draw = 0

    def __call__(self, span: Span) -> Latent:
        key, self._draw = (span.i, self._draw), self._draw + 1
        samples = [randn(seed_word(seed, key, np.uint64), self._shape[1:], self._dtype) for seed in self._seeds]
        return torch.stack(samples).to(self._device) if samples else torch.empty(self._shape, dtype=self._dtype)

    def get_state(self) -> None:
        return None

    def set_state(self, state: Tensor | None) -> None:
        self._draw = 0


def seed_word(entropy: int, key: tuple[int, ...], dtype: type[np.unsignedinteger] = np.uint32) -> int:
    """First word of a NumPy seed sequence: an independent seed for each key."""
    return int(np.random.SeedSequence(entropy, spawn_key=key, pool_size=24).generate_state(1, dtype)[0])
