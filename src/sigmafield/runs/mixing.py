"""Iterative mixing: between the steps of a run, its latent is blended with the source, noised to that level.

    mixing = Mixing(run, KeyedLevels([seed], source.shape), blending_weights("cosine", run.grid.n, alpha_1=2.4))
    for state in iterate(mixing, source): …

The run may be of any sampler that keeps to its schedule, and of any batch. After ComfyUI-Iterative-Mixer, and the skip
residual of DemoFusion, arXiv:2311.16973.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.linear import lincomb
from sigmafield.core.process import Process, Span
from sigmafield.core.protocols import State
from sigmafield.noise.sources import generator_of, randn, seed_word
from sigmafield.runs.blends import Blend, addition
from sigmafield.runs.perlin_masks import perlin_masks
from sigmafield.runs.run import Run
from sigmafield.spatial.inpaint import Inpaint

SOURCE, ORIGINAL, DENOISED = "mixing.source", "mixing.original", "mixing.denoised"
"""Names in a state's aux: this pass's source, the first one's, and the last step's D."""


@runtime_checkable
class LevelNoise(Protocol):
    """Unit-variance noise of a level of a pass: a function of the two numbers, so that a run resumes anywhere."""

    def __call__(self, rewind: int, level: int, /) -> Latent: ...


@dataclass(frozen=True)
class KeyedLevels:
    """Noise that is a function of (the sample's seed, pass, level) and of nothing else.

    shared: one noise for all levels of a pass, as DemoFusion has it. Drawn on the CPU.
    """

    seeds: Sequence[int]
    shape: Sequence[int]
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"
    shared: bool = False

    def __post_init__(self) -> None:
        if len(self.seeds) != self.shape[0]:
            raise ValueError(f"seeds must name one seed a sample: got {len(self.seeds)} for a batch of {self.shape[0]}")

    def __call__(self, rewind: int, level: int) -> Latent:
        key = (rewind, 0 if self.shared else level)
        drawn = [randn(seed_word(seed, key, np.uint64), self.shape[1:], self.dtype) for seed in self.seeds]
        return torch.stack(drawn).to(self.device)


class StreamLevels:
    """Noise of all levels of a pass in one draw of a CPU generator, pass after pass: the reference's order.

    seed: of the stream, which the reference leaves to chance; shape: of the latent; levels: of each pass,
    `Mixing.levels`. Each level has [B, C, *space], after those before it. The latest pass is kept in memory.
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
        self._kept: tuple[int, Tensor] = (-1, torch.empty(0))

    def __call__(self, rewind: int, level: int) -> Latent:
        if self._kept[0] != rewind:
            generator, drawn = generator_of(self._seed), torch.empty(0)
            for n in self._levels[: rewind + 1]:
                drawn = randn(generator, (n, *self._shape), self._dtype)
            self._kept = rewind, drawn
        return self._kept[1][level].to(self._device)


def noised(source: Latent, sigma: Sigma, noise: Latent, process: Process) -> Latent:
    """The source at a noise level, z = α s + σ r; never raised to √(1 + σ²), as a run's own start may be."""
    return lincomb(process.alpha(sigma), source, sigma, noise)


@dataclass(frozen=True)
class Perlin:
    """What Perlin masks P, one a step of a pass, do to the state after the blend; c' = 1 + strength (c − 1).

        latents:       x ← x (c' + P (1 − c'))
        masks:         x ← (1 − P) x + P (c'' x + (1 − c'') y), y = x after one more step, c'' of that step;
                       not after the last step. It costs the evaluations of that step
        matched_noise: x ← c' x + (1 − c') P

    scale: of the masks, in latent pixels a cell. All samples and channels see the same masks.
    """

    mode: Literal["masks", "latents", "matched_noise"] = "masks"
    strength: float = 0.75
    scale: float = 10.0
    seed: int = 0


@dataclass(frozen=True)
class Mixing:
    """A run whose state is blended, at every step i, with z = the source noised to a level; `iterate` takes it.

        x ← blend(z_i, x, c_i),   z_i = α_i s + σ_i r_i,   and the run begins at x = z_0

    noise: r_i of each level and pass; weights: c_i for each step of the run, 1 = the run alone, 0 = z alone.
    align: "after" the step with z_i, although x is at the next level, as the reference does: too noisy while c is
    small; "next": after the step with z_{i+1}; "before" the step with z_i, DemoFusion's order.
    of: what of x is blended: the whole "state"; the "denoised" latent D, with the noise around it added back whole
    (the reference's for lcm); "variance": clean and noise parts on their own, the latter with weights
    (1 − c, c)/√((1 − c)² + c²), which keeps the level, where a blend of independent noises is below it.
    rewind: (least, most) shares; when the schedule ends, begin again with the result as the source: see `passes`.
    match_source: at the end bring mean and deviation of each channel to those of the source.
    perlin: see `Perlin`. A run that denoises with `Inpaint` keeps what its mask keeps at the source, noised to the
    level by Inpaint's noise; with zeros for that, in VE, it is the reference's clean source.

    The states' i counts steps over all passes. The run's own noise goes on from pass to pass if it is a stream; a
    source that is a function of the step repeats itself. Raises ValueError for a sampler that chooses its own steps,
    another number of weights than steps, and options that contradict each other.
    """

    run: Run
    noise: LevelNoise
    weights: Sequence[float]
    blend: Blend = addition
    align: Literal["after", "next", "before"] = "after"
    of: Literal["state", "denoised", "variance"] = "state"
    rewind: tuple[float, float] | None = None
    match_source: bool = False
    perlin: Perlin | None = None

    def __post_init__(self) -> None:
        if self.run.sampler.adaptive:
            raise ValueError(f"{self.run.sampler.name} chooses its own steps: mixing needs those of the schedule")
        if len(self.weights) != self.run.grid.n:
            raise ValueError(f"weights must be one a step: got {len(self.weights)} for {self.run.grid.n} steps")
        agree(self.blend, self.align, self.of)
        if self.rewind is not None:
            passes(self.run.grid.n, *self.rewind)

    @cached_property
    def starts(self) -> list[int]:
        """The step of the schedule that each pass begins with."""
        return [0] if self.rewind is None else passes(self.run.grid.n, *self.rewind)

    @cached_property
    def runs(self) -> list[Run]:
        """The run of each pass, over the rest of the schedule."""
        sampler = replace(self.run.sampler, grid=None)  # it has changed the schedule already
        grids = [replace(self.run.grid, sigmas=self.run.grid.sigmas[k:]) for k in self.starts]
        return [replace(self.run, sampler=sampler, grid=grid) for grid in grids]

    @property
    def levels(self) -> list[int]:
        """Noise levels of each pass."""
        return [run.grid.n + 1 for run in self.runs]

    @property
    def n(self) -> int:
        """Steps of all passes."""
        return sum(run.grid.n for run in self.runs)

    def place(self, i: int) -> tuple[int, int]:
        """(pass, step within it) of the i-th step in all."""
        ends = np.cumsum([run.grid.n for run in self.runs]).tolist()
        k = bisect.bisect_right(ends, i)
        return k, i - (ends[k - 1] if k else 0)

    def start(self, x: Latent) -> State:
        """The state before the first step, from the clean source."""
        return replace(self.run.start(self._noised(x, 0, 0) if self.n else x), aux={SOURCE: x})

    def done(self, st: State) -> bool:
        """Whether the last pass has come to its end."""
        return st.i >= self.n

    def progress(self, st: State) -> float:
        """Share of all passes that is done, 0 … 1."""
        return st.i / self.n if self.n else 1.0

    def result(self, st: State) -> Latent:
        """The clean latent of a state at the end of the last pass."""
        return self.run.result(st)

    def label(self, st: State) -> str:
        """Which pass a rewound run is in; "" for a run of one pass."""
        return f"pass {self.place(min(st.i, self.n - 1))[0] + 1} of {len(self.runs)}" if len(self.runs) > 1 else ""

    @torch.no_grad()
    def step(self, st: State) -> State:
        """The state after one step and its blend. Pure, as a run's."""
        k, i = self.place(st.i)
        if k and not i:
            aux = {ORIGINAL: st.aux.get(ORIGINAL, st.aux[SOURCE]), SOURCE: st.x}
            st = replace(st, x=self._noised(st.x, k, 0), mem={}, aux=aux)
        run, source, c = self.runs[k], st.aux[SOURCE], float(self.weights[self.starts[k] + i])
        span = run.span(i)
        x = self._kept(st.x, span.sigma, span)
        if self.align == "before" and i:  # a pass begins as z_0, which a blend with z_0 leaves as it is
            D = st.aux.get(DENOISED, source)
            x = self._blended(x, D, k, i, c, span.sigma, source)
        local = run.step(replace(st, i=i, x=x))
        x, aux, nfe = local.x, local.aux, local.nfe
        D = local.pred.x0 if local.pred is not None else x
        if self.align != "before":
            z_level = i + (self.align == "next")
            x = self._blended(x, D, k, z_level, c, span.sigma_next, source)
        elif self.of == "variance":
            aux = {**aux, DENOISED: D}
        if self.perlin is not None:
            x, nfe = self._masked(self.perlin, replace(local, x=x), k, i, c)
        x = self._kept(x, span.sigma_next, span)
        if self.match_source and st.i + 1 == self.n:
            x = matched(x, aux.get(ORIGINAL, aux[SOURCE]))
        return replace(local, i=st.i + 1, x=x, aux=aux, nfe=nfe)

    def _noised(self, source: Latent, k: int, level: int) -> Latent:
        grid = self.runs[k].grid
        return noised(source, grid.sigmas[level], self.noise(k, level).to(source), grid.process)

    def _blended(self, x: Latent, D: Latent, k: int, level: int, c: float, at: Sigma, source: Latent) -> Latent:
        """x, which is at level `at`, blended with the source noised to `level` of the pass."""
        grid = self.runs[k].grid
        z = self._kept(self._noised(source, k, level), grid.sigmas[level], self.runs[k].span(min(level, grid.n - 1)))
        if self.of == "state":
            return self.blend(z, x, c)
        clean = lincomb(grid.process.alpha(at), D)
        if self.of == "denoised":
            return self.blend(z, clean, c) + (x - clean)
        z_clean, share = lincomb(grid.process.alpha(grid.sigmas[level]), source), math.hypot(1 - c, c)
        return lincomb(1 - c, z_clean, c, clean) + lincomb((1 - c) / share, z - z_clean, c / share, x - clean)

    def _masked(self, p: Perlin, local: State, k: int, i: int, c: float) -> tuple[Latent, int]:
        """(x after the Perlin masks, evaluations so far)."""
        run, x = self.runs[k], local.x
        P = _masks(run.grid.n, x.shape[-2], x.shape[-1], p.seed, p.scale)[i].to(x)
        weaker = 1 + p.strength * (c - 1)
        if p.mode == "latents":
            return x * (weaker + P * (1 - weaker)), local.nfe
        if p.mode == "matched_noise":
            return weaker * x + (1 - weaker) * P, local.nfe
        if run.done(local):
            return x, local.nfe
        ahead = run.step(local)
        then = 1 + p.strength * (float(self.weights[self.starts[k] + i + 1]) - 1)
        return (1 - P) * x + P * lincomb(then, x, 1 - then, ahead.x), ahead.nfe

    def _kept(self, x: Latent, sigma: Sigma, span: Span) -> Latent:
        """x with what an `Inpaint` keeps at this step brought to the source at σ; x itself without one."""
        if not isinstance(p := self.run.denoise, Inpaint):
            return x
        m = p.mask_of(span.sigma, p.mask)
        return x * m + noised(p.latent, sigma, p.noise, p.process) * (1 - m)


@lru_cache(maxsize=8)
def _masks(n: int, height: int, width: int, seed: int, scale: float) -> Tensor:
    """The masks of a pass: the same for each of its steps, so they are made once."""
    return perlin_masks(n, (height, width), seed, scale=scale)


def agree(blend: Blend, align: str, of: str) -> None:
    """Raise ValueError for options of `Mixing` that contradict each other."""
    if of == "variance" and blend is not addition:
        raise ValueError("of='variance' blends by addition: give no other blend")
    if of == "denoised" and align == "before":
        raise ValueError("of='denoised' needs the step's D: it cannot be blended before the step")


def passes(n: int, least: float, most: float) -> list[int]:
    """The steps that the passes of a rewound run of n steps begin with: 0, …

        start ← start + ⌊(n − start) · least⌋   while that moves on and is at most ⌊n · most⌋

    n = 100, 0.5, 0.8: 0, 50, 75. Raises ValueError unless 0 ≤ least < most ≤ 1.
    """
    if not 0 <= least < most <= 1:
        raise ValueError(f"rewind must be 0 ≤ least < most ≤ 1; got {least} and {most}")
    starts = [0]
    while True:
        start = starts[-1] + math.floor((n - starts[-1]) * least)
        if start >= n or start <= starts[-1] or start > math.floor(n * most):
            return starts
        starts.append(start)


def matched(x: Latent, source: Latent) -> Latent:
    """x with each channel's mean and deviation over space, sample by sample, brought to those of the source."""
    space = tuple(range(2, x.ndim))
    mean, std = x.mean(space, keepdim=True), x.std(space, keepdim=True)
    return (x - mean) / std * source.std(space, keepdim=True) + source.mean(space, keepdim=True)
