"""Sources of unit-variance noise: keyed per sample, or one sequential stream. `brownian` has a path in σ.

A source is called with the interval of the request. Its state between steps is read and set with get_state and
set_state, so a run can stop and continue, and two runs can share a source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.process import Span
from sigmafield.core.protocols import Noise

Device = torch.device | str


def generator_of(seed: int | torch.Generator, device: Device = "cpu") -> torch.Generator:
    """A new generator on `device`, or the given generator, which continues from its current state.

    Args:
        seed: Seed, 0 ≤ seed < 2⁶⁴, or a generator.
        device: Device of a new generator.

    Raises:
        ValueError: If the seed is out of range.
    """
    if isinstance(seed, torch.Generator):
        return seed
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be 0 … 2**64 - 1; got {seed}")
    return torch.Generator(device).manual_seed(int(seed))


def randn(
    seed: int | torch.Generator, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: Device = "cpu"
) -> Tensor:
    """Standard normal numbers of a new generator on `device`, or the next ones of a given generator."""
    return torch.randn(tuple(shape), generator=generator_of(seed, device), dtype=dtype, device=device)


def initial_noise(
    seed: int | torch.Generator,
    shape: Sequence[int],
    batch_index: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Latent:
    """The noise [B, C, *space] that a run begins with, drawn on the CPU from the seed as in ComfyUI.

    With batch_index, samples 0 … max are drawn one after the other and then picked, repeats allowed, so that one sample
    of a batch can be drawn again alone. Without it the whole batch is one draw. That equals 0 … B − 1 only where
    C·∏space is a multiple of 16, because torch draws in blocks of 16. Disabled noise is `torch.zeros`.

    Args:
        seed: Seed, 0 ≤ seed < 2⁶⁴; or a CPU generator, which continues: for the second part of a nested latent, and for
            churn noise after this (`Gaussian(generator, shape)`).
        shape: Shape of the latent [B, C, *space].
        batch_index: Which draw of the stream each sample is.
        dtype: Dtype of the latent.

    Raises:
        ValueError: If the seed is out of range, or batch_index has a negative entry or not one entry per sample.
    """
    generator = generator_of(seed)
    if batch_index is None:
        return randn(generator, shape, dtype)
    if len(batch_index) != shape[0]:
        raise ValueError(f"batch_index must name one draw per sample: got {len(batch_index)} for a batch of {shape[0]}")
    if any(k < 0 for k in batch_index):
        raise ValueError(f"batch_index must be ≥ 0; got {min(batch_index)}")
    noise = torch.empty(tuple(shape), dtype=dtype)
    for k in range(max(batch_index, default=-1) + 1):
        one = randn(generator, (1, *shape[1:]), dtype)
        for at in (b for b, index in enumerate(batch_index) if index == k):
            noise[at] = one[0]
    return noise


class Silent:
    """The source of samplers that draw no noise: raises RuntimeError when called."""

    def __call__(self, span: Span) -> Latent:
        raise RuntimeError(f"step {span.i} asked for noise, but its sampler is declared to draw none")

    def get_state(self) -> None:
        return None

    def set_state(self, state: Tensor | None) -> None:
        pass


class Gaussian:
    """One sequential stream for the whole batch, in the order of the draws, as ComfyUI uses.

    A sample's noise depends on the batch that it is in.

    Args:
        seed: Seed of a torch generator on `device`; or a generator, which continues from its current state.
        shape: Shape of the latent.
        dtype: Dtype of the latent.
        device: Device of the generator and the noise.
    """

    def __init__(
        self,
        seed: int | torch.Generator,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
    ):
        self._like = torch.empty(tuple(shape), dtype=dtype, device=device)
        self._generator = generator_of(seed, device)

    def __call__(self, span: Span) -> Latent:
        return self.draw()

    def draw(self) -> Tensor:
        """The next numbers of the stream."""
        return randn(self._generator, self._like.shape, self._like.dtype, self._like.device)

    def get_state(self) -> Tensor:
        return self._generator.get_state()

    def set_state(self, state: Tensor | None) -> None:
        if state is not None:
            self._generator.set_state(state)


@dataclass(frozen=True)
class Pair:
    """Two sources for samplers that also draw within a step.

    Any other source serves both, in the order of the draws (see `inner_of`). The state of a pair is the two states.

    Args:
        main: Source for the step.
        inner: Source for its stages.
    """

    main: Noise
    inner: Noise

    def __call__(self, span: Span) -> Latent:
        return self.main(span)

    def get_state(self) -> Tensor | None:
        states = [state for state in (self.main.get_state(), self.inner.get_state()) if state is not None]
        return torch.stack(states) if len(states) == 2 else None

    def set_state(self, state: Tensor | None) -> None:
        # cloned, because a generator reads a state from the start of its storage and ignores the view
        first, second = (None, None) if state is None else (part.clone() for part in state)
        self.main.set_state(first)
        self.inner.set_state(second)


def inner_of(noise: Noise) -> Noise:
    """The source for the stages of a step: the second one of a pair, otherwise the source itself."""
    return noise.inner if isinstance(noise, Pair) else noise


class Keyed:
    """Noise that is a function of the sample's seed, the step and the draw within the step only.

    Image k is the same in any batch, no state has to be stored, and steps may be taken in any order. Numbers are always
    drawn on the CPU, so all devices agree.

    Args:
        seeds: One seed per sample.
        shape: Shape of the whole latent [B, …] with B = len(seeds).
        dtype: Dtype of the latent.
        device: Device of the noise.

    Raises:
        ValueError: If the number of seeds is not the batch size.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
    ):
        if len(seeds) != shape[0]:
            raise ValueError(f"seeds must name one seed per sample: got {len(seeds)} for a batch of {shape[0]}")
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


def following(seed: int, by: int = 1) -> int:
    """The seed that is `by` later; after 2⁶⁴ − 1 comes 0, as in ComfyUI."""
    return (int(seed) + by) % 2**64


def seed_word(entropy: int, key: tuple[int, ...], dtype: type[np.unsignedinteger] = np.uint32) -> int:
    """The first word of a NumPy seed sequence: an independent seed for each key."""
    return int(np.random.SeedSequence(entropy, spawn_key=key, pool_size=24).generate_state(1, dtype)[0])
