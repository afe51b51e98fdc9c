"""Sources of unit-variance noise: keyed per sample, one sequential stream, and a Brownian path in σ.

A source is called with the interval that asks. What it remembers between steps is read and set with
get_state / set_state, so a run can stop and continue, and two runs may share a source.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sigmafield.grid import Grid, Span
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
        samples = [randn(_word(seed, key, 1, np.uint64), self._shape[1:], self._dtype) for seed in self._seeds]
        return torch.stack(samples).to(self._device) if samples else torch.empty(self._shape, dtype=self._dtype)

    def get_state(self) -> None:
        return None

    def set_state(self, state: Tensor | None) -> None:
        self._draw = 0


class Brownian:
    """ξ(σ, σ') = increment of a Brownian path between σ and σ', divided by √|σ − σ'|.

    Overlapping intervals are correlated as the path says, and different step counts see the same path.
    The path is a virtual tree over [smallest positive σ, largest σ], bit-equal to that of torchsde 0.2.6
    (`BrownianTree`, tol = 1e-6, pool_size = 24): times are rounded to 6 decimals, a node's half is drawn from
    the seed that its place in the tree has. Only nodes on the way to a query are drawn; the most recent
    `capacity` of them are kept, others are drawn again when needed.

    seed: entropy of the tree; σ must be a number, not a field. drawn_on: the device that the tree lives on.
    times: dtype that σ is rounded to before it is looked up.
    """

    def __init__(
        self,
        seed: int,
        grid: Grid,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
        drawn_on: Device = "cpu",
        times: torch.dtype = torch.float32,
        capacity: int = 64,
    ):
        if grid.is_field:
            raise ValueError(
                f"Brownian noise needs one sigma per step; got a field {tuple(grid.sigmas.shape)}: use Keyed"
            )
        positive = grid.sigmas[grid.sigmas > 0].float()
        # torchsde keeps the unrounded ends for the root's variance, and rounds every time that it cuts at
        ends = (float(positive.min()), float(positive.max())) if len(positive) else (0.0, 1.0)
        self._start, self._end = round(ends[0], 6), round(ends[1], 6)
        self._seed, self._shape, self._dtype = seed, tuple(shape), dtype
        self._device, self._drawn_on, self._times = device, drawn_on, times
        self._nodes: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        self._capacity = capacity
        root = _word(seed, (), 3, np.uint32)
        self._root = self._randn(root) * math.sqrt(ends[1] - ends[0])

    def __call__(self, span: Span) -> Latent:
        a, b = float(span.sigma), float(span.sigma_next)
        w = self._increment(self._clamp(min(a, b)), self._clamp(max(a, b)))
        return w.to(self._device) * ((1.0 if a < b else -1.0) / math.sqrt(abs(b - a)))

    def get_state(self) -> None:
        return None

    def set_state(self, state: Tensor | None) -> None:
        pass

    def _clamp(self, time: float) -> float:
        return min(max(round(torch.tensor(time, dtype=self._times).item(), 6), self._start), self._end)

    def _increment(self, low: float, high: float) -> Tensor:
        """W(high) − W(low): the sum, left to right, of the largest nodes that cover the interval."""
        total = torch.zeros(self._shape, dtype=self._dtype, device=self._drawn_on)
        if low >= high:
            return total
        pending = [(self._start, self._end, 0, 0, self._root)]
        while pending:
            start, end, key, depth, w = pending.pop()
            if low <= start and end <= high:
                total = total + w
                continue
            middle = round((start + end) / 2, 6)
            left = self._left(start, middle, end, key, depth, w)
            if high > middle:
                pending.append((middle, end, 2 * key + 1, depth + 1, w - left))
            if low < middle:
                pending.append((start, middle, 2 * key, depth + 1, left))
        return total

    def _left(self, start: float, middle: float, end: float, key: int, depth: int, w: Tensor) -> Tensor:
        """Increment over a node's left half, from the Brownian bridge over the whole node."""
        if (key, depth) in self._nodes:
            self._nodes.move_to_end((key, depth))
            return self._nodes[key, depth]
        xi = self._randn(_word(self._seed, (key, depth), 4, np.uint32))
        before, after, per_length = middle - start, end - middle, 1 / (end - start)  # the order decides the last bit
        left = before * w * per_length + math.sqrt(before * after * per_length) * xi
        self._nodes[key, depth] = left
        if len(self._nodes) > self._capacity:
            self._nodes.popitem(last=False)
        return left

    def _randn(self, seed: int) -> Tensor:
        return randn(seed, self._shape, self._dtype, self._drawn_on)


def _word(entropy: int, key: tuple[int, ...], words: int, dtype: type[np.unsignedinteger]) -> int:
    """First word of a NumPy seed sequence: an independent seed for each key."""
    sequence = np.random.SeedSequence(entropy=entropy, spawn_key=key, pool_size=24)
    return int(sequence.generate_state(words, dtype)[0])
