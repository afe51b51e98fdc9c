"""Iterative mixing: after every step of a run, its latent is blended with the source, noised to that level.

    mixing = Mixing(run, KeyedLevels([seed], source.shape), blending_weights("cosine", run.n, alpha_1=2.4))
    for state in iterate(mixing, source): …

The run may use any sampler that follows the schedule, and any batch size. After ComfyUI-Iterative-Mixer, and the skip
residual of DemoFusion, arXiv:2311.16973.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Literal

import torch

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.linear import lincomb
from sigmafield.core.memory import Memory, Slot
from sigmafield.core.process import Span
from sigmafield.core.protocols import State
from sigmafield.runs.blends import Blend, addition
from sigmafield.runs.level_noise import LevelNoise, noised
from sigmafield.runs.perlin_masks import Perlin, masks_of_pass
from sigmafield.runs.run import Run, part_at

Keep = Callable[[Latent, Sigma, Span], Latent]
"""(x, σ, step) → x with what a mask keeps in that step replaced by the source at σ, such as `Inpaint.kept`."""

Align = Literal["after", "next", "before"]
Part = Literal["state", "denoised", "variance"]


@dataclass(frozen=True)
class Pass:
    """What a mixing remembers between its steps.

    Args:
        source: Clean source of this pass.
        original: Clean source of the first pass, kept in later ones.
        denoised: D of the last step, kept where the next blend needs it.
    """

    source: Latent
    original: Latent | None = None
    denoised: Latent | None = None


PASS: Slot[Pass] = Slot("mixing", Pass)
"""Where a state's aux holds it."""


@dataclass(frozen=True)
class Mixing:
    """A run whose state is blended, at every step i, with z = the source noised to a level; `iterate` takes it.

        x ← blend(z_i, x, c_i),   z_i = α_i s + σ_i r_i,   and the run begins at x = z_0

    The states' i counts steps over all passes. If the run's own noise is a stream, it continues from pass to pass; a
    source that is a function of the step gives the same noise in every pass.

    Args:
        run: The run; its sampler must follow the schedule.
        noise: r_i of each pass and level.
        weights: c_i for each step of the run: 1 = the run alone, 0 = z alone.
        blend: How x and z are blended, see `blends`.
        align: "after" blends after the step with z_i, although x is at the next level by then, as the reference does:
            it leaves too much noise while c is small. "next" blends after the step with z_{i+1}. "before" blends
            before the step with z_i, as DemoFusion does.
        of: What is blended. "state" is the whole of x. "denoised" is the clean latent D, to which all of the noise
            around it is added back, as the reference does for lcm. "variance" blends clean and noise parts separately,
            the latter with weights (1 − c, c)/√((1 − c)² + c²), which keeps the noise level where a plain blend of
            independent noises falls below it.
        rewind: (least, most) shares: when the schedule ends, start again with the result as the source, see `passes`.
        match_source: Whether the end gets the mean and deviation of each channel of the source.
        perlin: Perlin masks that are applied after the blend.
        keep: Keeps a part of the latent at the source, such as `Inpaint.kept` of the inpainting that `run` denoises
            with; where its noise is 0, in VE, that is the reference's clean source.

    Raises:
        ValueError: The sampler chooses its own steps, the number of weights is not the number of steps, or options
            contradict each other.
    """

    run: Run
    noise: LevelNoise
    weights: Sequence[float]
    blend: Blend = addition
    align: Align = "after"
    of: Part = "state"
    rewind: tuple[float, float] | None = None
    match_source: bool = False
    perlin: Perlin | None = None
    keep: Keep | None = None

    starts_clean = True
    """`start` takes the clean source."""

    def __post_init__(self) -> None:
        if self.run.sampler.adaptive:
            raise ValueError(f"{self.run.sampler.name} chooses its own steps: mixing needs those of the schedule")
        if len(self.weights) != self.run.n:
            raise ValueError(f"weights must be one per step: got {len(self.weights)} for {self.run.n} steps")
        agree(self.blend, self.align, self.of)
        if self.rewind is not None:
            passes(self.run.n, *self.rewind)

    @cached_property
    def starts(self) -> list[int]:
        """The step of the schedule that each pass begins with."""
        return [0] if self.rewind is None else passes(self.run.n, *self.rewind)

    @cached_property
    def runs(self) -> list[Run]:
        """The run of each pass, over the rest of the schedule."""
        sampler = replace(self.run.sampler, grid=None)  # the sampler has already changed the schedule
        grids = [replace(self.run.grid, sigmas=self.run.grid.sigmas[k:]) for k in self.starts]
        return [replace(self.run, sampler=sampler, grid=grid) for grid in grids]

    @property
    def levels(self) -> list[int]:
        """Number of noise levels of each pass."""
        return [run.n + 1 for run in self.runs]

    @cached_property
    def ends(self) -> list[int]:
        """Number of steps taken at the end of each pass."""
        return list(accumulate(run.n for run in self.runs))

    @property
    def n(self) -> int:
        """Number of steps of all passes."""
        return self.ends[-1]

    def where(self, i: int) -> tuple[int, int]:
        """(pass, step within it) of step i of all passes."""
        return part_at(self.ends, i)

    def start(self, x: Latent) -> State:
        """The state before the first step, from the clean source."""
        return replace(self.run.start(self._noised(x, 0, 0) if self.n else x), aux=_remembered({}, Pass(x)))

    def done(self, st: State) -> bool:
        """Whether the last pass has ended."""
        return st.i >= self.n

    def progress(self, st: State) -> float:
        """Share of all passes that is done, 0 … 1."""
        return st.i / self.n if self.n else 1.0

    def result(self, st: State) -> Latent:
        """The clean latent of a state at the end of the last pass."""
        return self.run.result(st)

    def label(self, st: State) -> str:
        """ "pass 2 of 3" for a rewound run; "" for a run of one pass."""
        return f"pass {self.where(min(st.i, self.n - 1))[0] + 1} of {len(self.runs)}" if len(self.runs) > 1 else ""

    @torch.no_grad()
    def step(self, st: State) -> State:
        """The state after one step and its blend. Pure, like a run's."""
        k, i = self.where(st.i)
        st = self._rewound(st, k) if k and not i else st
        run, c = self.runs[k], float(self.weights[self.starts[k] + i])
        span, known = run.span(i), _known(st)
        x = self._kept(st.x, span.sigma, span)
        if self.align == "before" and i:  # a pass begins at z_0, which a blend with z_0 does not change
            D_prev = known.source if known.denoised is None else known.denoised
            x = self._blended(x, D_prev, k, i, c, span.sigma, known.source)
        local = run.step(replace(st, i=i, x=x))
        x, aux, nfe = local.x, local.aux, local.nfe
        D = local.pred.x0 if local.pred is not None else x
        if self.align != "before":
            z_level = i + (self.align == "next")
            x = self._blended(x, D, k, z_level, c, span.sigma_next, known.source)
        elif self.of == "variance":
            aux = _remembered(aux, replace(known, denoised=D))
        if self.perlin is not None:
            x, nfe = self._masked(self.perlin, replace(local, x=x), k, i, c)
        x = self._kept(x, span.sigma_next, span)
        if self.match_source and st.i + 1 == self.n:
            x = matched(x, known.source if known.original is None else known.original)
        return replace(local, i=st.i + 1, x=x, aux=aux, nfe=nfe)

    def _rewound(self, st: State, k: int) -> State:
        """The state before the first step of a later pass: the result of the one before is the source."""
        known = _known(st)
        now = Pass(st.x, known.source if known.original is None else known.original)
        return replace(st, x=self._noised(st.x, k, 0), mem={}, aux=_remembered({}, now))

    def _noised(self, source: Latent, k: int, level: int) -> Latent:
        """The source at a level of pass k."""
        grid = self.runs[k].grid
        return noised(source, grid.sigmas[level], self.noise(k, level).to(source), grid.process)

    def _blended(self, x: Latent, D: Latent, k: int, level: int, c: float, at: Sigma, source: Latent) -> Latent:
        """x, which is at σ = at, blended with the source noised to a level of pass k."""
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
        P = masks_of_pass(run.n, x.shape[-2], x.shape[-1], p.seed, p.scale)[i].to(x)
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
        return x if self.keep is None else self.keep(x, sigma, span)


def _known(st: State) -> Pass:
    """What a mixing remembers; ValueError for a state that it did not start."""
    if (known := PASS.read(st.aux)) is None:
        raise ValueError("the state is not one of a mixed run: begin with Mixing.start(source)")
    return known


def _remembered(aux: Memory, known: Pass) -> Memory:
    """The memory with `known` in it; the given one is unchanged."""
    aux = dict(aux)
    PASS.write(aux, known)
    return aux


def agree(blend: Blend, align: str, of: str) -> None:
    """Raise ValueError for options of `Mixing` that contradict each other."""
    if of == "variance" and blend is not addition:
        raise ValueError("of='variance' blends by addition: give no other blend")
    if of == "denoised" and align == "before":
        raise ValueError("of='denoised' needs the step's D: it cannot be blended before the step")


def passes(n: int, least: float, most: float) -> list[int]:
    """The steps that the passes of a rewound run of n steps begin with: 0, …

        start ← start + ⌊(n − start) · least⌋   while this advances and is at most ⌊n · most⌋

    n = 100, 0.5, 0.8 gives 0, 50, 75. Raises ValueError unless 0 ≤ least < most ≤ 1.
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
    """x with the mean and deviation of each channel, sample by sample, brought to those of the source."""
    space = tuple(range(2, x.ndim))
    mean, std = x.mean(space, keepdim=True), x.std(space, keepdim=True)
    return (x - mean) / std * source.std(space, keepdim=True) + source.mean(space, keepdim=True)
