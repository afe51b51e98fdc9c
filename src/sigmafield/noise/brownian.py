"""Noise from a Brownian path in σ: intervals are correlated as on one path, whatever the number of steps."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.grid import Grid
from sigmafield.core.process import Span
from sigmafield.core.typed import numbers
from sigmafield.noise.brownian_sums import Split, add_up
from sigmafield.noise.sources import Device, seed_word

Interval = tuple[float, float]
"""Two times of the tree, rounded to 6 decimals, the smaller one first."""

ANSWERS = 4
"""Largest number of increments that are drawn ahead and kept until they are asked for."""

DRAWERS = 4
"""Largest number of threads that draw numbers (fewer if torch has fewer): an interval needs about twenty draws."""


class Node(NamedTuple):
    """An interval of the tree and the path's increment over it."""

    start: float
    end: float
    w: Tensor


def rest(every: Span) -> list[tuple[float, float]]:
    """(smallest, largest) level of each step and all later ones."""
    assert every.sigmas is not None
    back = every.sigmas.flip(0)
    return list(zip(numbers(back.cummin(0).values.flip(0)), numbers(back.cummax(0).values.flip(0))))


class Brownian:
    """Noise ξ(σ, σ') from a Brownian path W in σ.

        ξ(σ, σ') = (W(σ') − W(σ))/√|σ − σ'|,   and 0 where σ = σ'

    Overlapping intervals are correlated as on one path, and runs with different numbers of steps see the same path.

    The path is a virtual tree over [smallest positive σ, largest σ], bit-equal to that of torchsde 0.2.6
    (`BrownianTree`, tol = 1e-6, pool_size = 24): times are rounded to 6 decimals, the halves of a node are drawn from a
    seed that follows from its position in the tree, and an increment is the sum of the largest nodes that cover it.

    Only nodes on the way to an end of an interval are drawn, and none is drawn twice while the schedule is followed. A
    tree on the CPU draws the interval that is expected next in threads of its own, starting at construction, so that a
    network on another device hides the drawing. Numbers are drawn first, then summed (`brownian_sums`). None of this
    changes the result, in any order of requests.

    Memory use, for a tree of d = log₂((σ_max − σ_min)/10⁻⁶) levels (24 for Stable Diffusion), in nodes of one latent
    each: at most 3 d while a schedule is followed step by step, and 5 d if stages within the steps are requested too;
    in any other order, `capacity` and the 4 d that one interval may need. Up to 4 increments drawn ahead add to this.
    Nodes that no remaining step needs are dropped, and their memory is reused.

    Args:
        seed: Seed of the tree, or a list of one seed per sample, with which a sample is the same in any batch.
        grid: Schedule of the run, with one σ per step.
        shape: Shape of the whole latent [B, …].
        dtype: Dtype of the noise.
        device: Device of the noise.
        drawn_on: Device that the tree is drawn and kept on.
        times: Dtype that σ is rounded to before it is looked up.
        capacity: Number of nodes kept from one request to the next.

    Raises:
        ValueError: If the grid is a σ-field, a seed is negative or the number of seeds is not the batch size.
    """

    def __init__(
        self,
        seed: int | Sequence[int],
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
        self._per_sample = isinstance(seed, Sequence)
        self._seeds = tuple(map(int, seed)) if isinstance(seed, Sequence) else (int(seed),)
        if self._per_sample and len(self._seeds) != shape[0]:
            raise ValueError(
                f"seed must be one number or one per sample: got {len(self._seeds)} for a batch of {shape[0]}"
            )
        if any(value < 0 for value in self._seeds):
            raise ValueError(f"seed must be ≥ 0; got {seed}")
        self._shape, self._dtype, self._times = tuple(shape), dtype, times
        self._device, self._drawn_on, self._capacity = device, torch.device(drawn_on), capacity
        positive = grid.sigmas[grid.sigmas > 0].float()
        # torchsde takes the root's variance from the unrounded ends, and rounds all times it cuts at
        low, high = (float(positive.min()), float(positive.max())) if len(positive) else (0.0, 1.0)
        self._range, self._root_std = (round(low, 6), round(high, 6)), math.sqrt(high - low)
        self._known: dict[float, float] = {}  # σ → time
        self._levels = sorted({self._time(float(sigma)) for sigma in grid.sigmas})
        self._nodes: dict[int, Node] = {}  # by number: the root is 1, the halves of n are 2 n and 2 n + 1
        self._spare: list[Tensor] = []
        self._drawn: dict[int, Tensor] = {}  # random numbers to cut nodes with, by node
        self._splits: list[Split] = []
        self._answers: dict[Interval, Future[Tensor]] = {}
        self._stage = (-1, 1.0)  # last step in which a stage was requested, and its share of h
        # on another device the tree is drawn in the caller's stream
        self._worker = ThreadPoolExecutor(1, "brownian") if self._drawn_on.type == "cpu" else None
        drawers = min(torch.get_num_threads(), DRAWERS) if self._worker else 1
        self._drawers = ThreadPoolExecutor(drawers, "brownian-draw") if drawers > 1 else None
        if self._worker and grid.n and grid.sigmas[1] > 0:
            self._begin(grid.span(0))

    def __call__(self, span: Span) -> Latent:
        a, b = float(span.sigma), float(span.sigma_next)
        w = self._answer(span)
        following = self._following(span)
        if self._worker and following:
            self._begin(following)
        return w.to(self._device).mul_(math.copysign(1, b - a) / math.sqrt(abs(b - a)) if a != b else 0.0)

    def begun(self, span: Span) -> bool:
        """Whether the noise of an interval is being drawn ahead, or is ready, and has not been asked for."""
        return self._question(span)[0] in self._answers

    def get_state(self) -> None:
        return None

    def set_state(self, state: Tensor | None) -> None:
        pass

    def _answer(self, span: Span) -> Tensor:
        """The increment over an interval, which then belongs to the caller; errors of the thread are raised here."""
        asked, to_come = self._question(span)
        if self._worker is None:
            return self._increment(asked, to_come)
        try:
            return self._begin(span).result()
        finally:
            del self._answers[asked]  # the caller changes it in place; after an error the next try draws again

    def _begin(self, span: Span) -> Future[Tensor]:
        """Let the thread draw an increment, unless it is drawn already."""
        asked, to_come = self._question(span)
        answer = self._answers.get(asked)
        if answer is None:
            assert self._worker is not None
            answer = self._answers[asked] = self._worker.submit(self._increment, asked, to_come)
            for old in list(self._answers)[:-ANSWERS]:
                self._answers.pop(old)
        return answer

    def _question(self, span: Span) -> tuple[Interval, Interval]:
        """The times asked for, and the range of times that this step and all later ones lie in."""
        low, high = sorted((self._time(float(span.sigma)), self._time(float(span.sigma_next))))
        if span.sigmas is None or span.i >= span.n:
            return (low, high), self._range
        lowest, highest = span.of_run(rest)
        return (low, high), (self._time(lowest), self._time(highest))

    def _following(self, span: Span) -> Span | None:
        """The interval that is expected next, None if the schedule does not determine it.

        After a stage it is the whole step. After a whole step it is the next step, or as much of it as the first stage
        of this step covered.
        """
        if span.sigmas is None or span.i >= span.n:
            return None
        step = span.at(0)
        if span.sigma_next != step.sigma_next:
            if span.sigma == step.sigma:
                self._stage = span.i, float((span.lam_next - step.lam) / step.h)
            return step
        if self._stage[0] != span.i:
            self._stage = span.i, 1.0
        if span.i + 1 == span.n or span.at(1).sigma_next == 0:
            return None
        return span.at(1).split(self._stage[1])[0]

    def _time(self, sigma: float) -> float:
        found = self._known.get(sigma)
        if found is None:
            low, high = self._range
            found = min(max(round(torch.tensor(sigma, dtype=self._times).item(), 6), low), high)
            self._known[sigma] = found
        return found

    def _increment(self, asked: Interval, to_come: Interval) -> Tensor:
        """W(high) − W(low): the sum, left to right, of the largest nodes that cover the interval.

        Nodes outside of `to_come` are dropped first, then the oldest nodes beyond the capacity.
        """
        if not self._nodes:
            self._nodes[1] = Node(*self._range, self._normal(0).mul_(self._root_std))
        for n in [n for n, node in self._nodes.items() if node.end <= to_come[0] or node.start >= to_come[1]]:
            self._forget(n)
        for n in list(self._nodes)[: -self._capacity]:
            self._forget(n)
        if not (cover := self._cover(*asked)):
            return torch.zeros(self._shape, dtype=self._dtype, device=self._drawn_on)
        each = self._drawers.map if self._drawers else map
        cuts = self._cuts(cover)
        self._drawn = dict(zip(cuts, each(self._normal, cuts)))  # all at once: else the sums would wait for each draw
        try:
            self._splits = []
            terms = [self._value(n) for n in cover]
            total = torch.empty(self._shape, dtype=self._dtype, device=self._drawn_on)  # the caller's, never reused
            add_up(self._splits, terms, total, each)
        except BaseException:
            self._nodes.clear()  # halves of split nodes may not be filled
            raise
        return total

    def _cover(self, low: float, high: float) -> list[int]:
        """Numbers of the largest nodes that make up [low, high], left to right."""
        if low >= high:
            return []
        cover, pending = [], [(1, *self._range)]
        while pending:
            n, start, end = pending.pop()
            if low <= start and end <= high:
                cover.append(n)
                continue
            middle = round((start + end) / 2, 6)
            if high > middle:
                pending.append((2 * n + 1, middle, end))
            if low < middle:
                pending.append((2 * n, start, middle))
        return cover

    def _cuts(self, cover: list[int]) -> list[int]:
        """Numbers of the nodes that must be cut to have those of a cover in memory, from the root down."""
        cuts = set()
        for n in cover:
            while n not in self._nodes and n >> 1 not in cuts:
                n >>= 1
                cuts.add(n)
        return sorted(cuts)

    def _value(self, n: int) -> Tensor:
        """Buffer that will hold the increment over node n once all noted splits are done."""
        above = n
        while above not in self._nodes:
            above >>= 1
        while above != n:
            self._split(above)
            above = n >> (n.bit_length() - above.bit_length() - 1)
        return self._nodes[n].w

    def _split(self, n: int) -> None:
        """Note how to cut a node in two. A later split may reuse its buffer, because splits are done in order."""
        start, end, w = self._nodes[n]
        middle = round((start + end) / 2, 6)
        before, after, per_length = middle - start, end - middle, 1 / (end - start)
        left, right = self._drawn.pop(n), self._buffer()
        self._splits.append(Split(w, left, right, before, per_length, math.sqrt(before * after * per_length)))
        self._nodes[2 * n], self._nodes[2 * n + 1] = Node(start, middle, left), Node(middle, end, right)
        level = bisect_right(self._levels, start)
        if level < len(self._levels) and self._levels[level] < end:
            self._forget(n)  # no step covers a node with a level inside it: only its halves are needed

    def _forget(self, n: int) -> None:
        """Remove a node from memory, except the root. Its buffer is reused if one thread owns all buffers."""
        if n > 1:
            w = self._nodes.pop(n).w
            if self._worker is not None:
                self._spare.append(w)

    def _buffer(self) -> Tensor:
        try:
            return self._spare.pop()
        except IndexError:
            return torch.empty(self._shape, dtype=self._dtype, device=self._drawn_on)

    def _normal(self, n: int) -> Tensor:
        """Standard normal numbers to cut node n with, in a new buffer; n = 0: to make the root from."""
        depth = n.bit_length() - 1
        key = (n - (1 << depth), depth) if n else ()
        out, generator = self._buffer(), torch.Generator(self._drawn_on)
        for seed, part in zip(self._seeds, out if self._per_sample else [out]):
            part.normal_(generator=generator.manual_seed(seed_word(seed, key)))
        return out
