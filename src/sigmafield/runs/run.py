"""The only loop: a run is stepped from state to state, and the caller decides what happens in between."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.process import VE, Clock, Grid, Process, Span
from sigmafield.core.protocols import Ctx, Denoiser, Noise, Pred, State, Steps
from sigmafield.noise.policy import default_noise
from sigmafield.noise.sources import Silent
from sigmafield.samplers.registry import SAMPLERS, Sampler


@dataclass(frozen=True)
class Run:
    """A denoiser, a sampler, a schedule and a noise source: everything that a run needs except its start.

    Args:
        denoise: The guided model.
        sampler: The sampler, a row of `SAMPLERS`.
        grid: The schedule.
        noise: Source of the noise that the sampler draws.
        params: The sampler's keyword parameters.

    Raises:
        ValueError: A parameter is unknown or out of range, the sampler needs one σ per step and the schedule is a
            σ-field, or the sampler draws noise and there is no source.
    """

    denoise: Denoiser
    sampler: Sampler
    grid: Grid
    noise: Noise = Silent()
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rng: Tensor | None = field(init=False, default=None, repr=False)
    """The noise source's state when the run was made, from which every start of this run begins."""
    end: Tensor = field(init=False, repr=False)
    """The level that `Process.finish` is given: the schedule's last, even if the sampler stops before it."""

    starts_clean = False
    """`start` takes the noisy latent."""

    def __post_init__(self) -> None:
        name, sigmas = self.sampler.name, self.grid.sigmas
        object.__setattr__(self, "params", {**self.sampler.params, **self.sampler.check(self.params)})
        if self.sampler.adaptive and self.grid.is_field:
            raise ValueError(
                f"{name} chooses its own steps and needs one sigma per step; got a field {tuple(sigmas.shape)}"
            )
        if self.sampler.grid is not None:
            object.__setattr__(self, "grid", self.sampler.grid(self.grid, {**self.sampler.values, **self.params}))
        if isinstance(self.noise, Silent) and self.draws:
            raise ValueError(f"{name} draws noise: give a source, such as Keyed(seeds, x.shape)")
        object.__setattr__(self, "rng", self.noise.get_state())
        object.__setattr__(self, "end", (sigmas if self.sampler.stops_early else self.grid.sigmas)[-1:].squeeze(0))

    @property
    def draws(self) -> bool:
        """Whether the sampler asks for noise, with these parameters."""
        return self.sampler.draws(self.params)

    @property
    def n(self) -> int:
        """Number of intervals in the schedule, one per step unless the sampler chooses its own."""
        return self.grid.n

    def start(self, x: Latent) -> State:
        """The state before the first step, from the noisy latent x [B, C, *space] (float32 or float64)."""
        return State(0, x, rng=self.rng)

    def done(self, st: State) -> bool:
        """Whether the last step has been taken."""
        if self.sampler.pace is None or not self.n:
            return st.i >= self.n
        return self.sampler.pace.done(st.mem, self.span(0))

    def progress(self, st: State) -> float:
        """Share of the run that is done, 0 … 1."""
        if self.done(st):
            return 1.0
        return st.i / self.n if self.sampler.pace is None else self.sampler.pace.progress(st.mem, self.span(0))

    def result(self, st: State) -> Latent:
        """The clean latent of a state at the end of the run."""
        return self.grid.process.finish(self.end, st.x)

    def label(self, st: State) -> str:
        """ "": a single run needs no label."""
        return ""

    def span(self, i: int) -> Span:
        """The interval that step i works on: the whole run for an adaptive sampler."""
        return replace(self.grid.span(0), i=i) if self.sampler.adaptive else self.grid.span(i)

    @torch.no_grad()
    def step(self, st: State) -> State:
        """The state after one step. Pure: `st` is unchanged, and the same state gives the same result."""
        span = self.span(st.i)
        ctx = Ctx(span, dict(st.aux), self.sampler.need_uncond)
        self.noise.set_state(st.rng)
        gen = self.sampler.step(st.x, span, st.mem, self.noise, **self.params)
        first: Pred | None = None
        nfe = st.nfe
        try:
            x, sigma = next(gen)
            while True:
                pred = self.denoise(x, sigma, ctx)
                first, nfe = first or pred, nfe + 1
                x, sigma = gen.send(pred)
        except StopIteration as end:
            x, mem = end.value
        if span.sigma.ndim and (frozen := span.frozen).any():
            x = torch.where(frozen.to(x.device), st.x, x)
        return State(st.i + 1, x, mem, ctx.aux, self.noise.get_state(), nfe, first)


def part_at(ends: Sequence[int], i: int) -> tuple[int, int]:
    """(part, step within it) of step i of a run in parts.

    Args:
        ends: Number of steps taken at the end of each part, ascending.
        i: Step of the whole run, from 0; the number of all steps gives (len(ends), 0).
    """
    k = bisect.bisect_right(ends, i)
    return k, i - (ends[k - 1] if k else 0)


def iterate(run: Steps, start: Latent | State) -> Iterator[State]:
    """Step to the end and give each state; the caller may preview, save, edit or stop between any two."""
    st = start if isinstance(start, State) else run.start(start)
    while not run.done(st):
        yield (st := run.step(st))


def finish(run: Steps, start: Latent | State) -> State:
    """The state at the end, from a noisy latent or any state."""
    last = start if isinstance(start, State) else run.start(start)
    for state in iterate(run, last):
        last = state
    return last


def sample(
    denoise: Denoiser,
    x: Latent,
    sigmas: Tensor,
    sampler: str = "euler",
    *,
    process: Process = VE(),
    clock: Clock | None = None,
    noise: Noise | None = None,
    seed: int = 0,
    **params: Any,
) -> Tensor:
    """x at the end of the schedule: a whole run in one call.

    Args:
        denoise: The guided model.
        x: Noisy latent [B, C, *space] at sigmas[0], float32 or float64.
        sigmas: Noise levels [steps + 1], or a field [steps + 1, B, 1, *space].
        sampler: A name of `SAMPLERS`.
        process: Process that the model was trained on.
        clock: The model's clock, for mods that act in a part of the run.
        noise: Source of the sampler's noise, by default `default_noise` from `seed`.
        seed: Seed of the default source.
        **params: Parameters of the sampler.
    """
    row, grid = SAMPLERS.lookup(sampler), Grid(sigmas, process, clock=clock)
    run = Run(denoise, row, grid, noise or default_noise(row.noise, seed, grid, x), params)
    return finish(run, x).x
