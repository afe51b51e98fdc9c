"""The only loop: a run is stepped from state to state, and the caller decides what happens in between."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.grid import Grid
from sigmafield.core.process import VE, Clock, Process, Span
from sigmafield.core.protocols import Ctx, Denoiser, Noise, Pred, State, Steps
from sigmafield.core.registry import shown
from sigmafield.noise.policy import default_noise
from sigmafield.noise.sources import Silent
from sigmafield.runs.finite import Finite
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
                pred = _answer(self.denoise(x, sigma, ctx), x)
                first, nfe = first or pred, nfe + 1
                x, sigma = gen.send(pred)
        except StopIteration as end:
            x, mem = end.value
        if span.sigma.ndim and (frozen := span.frozen).any():
            x = torch.where(frozen.to(x.device), st.x, x)
        return State(st.i + 1, x, mem, ctx.aux, self.noise.get_state(), nfe, first)


def _answer(pred: object, x: Latent) -> Pred:
    """A denoiser's answer for x; TypeError or ValueError for what is not one."""
    if not isinstance(pred, Pred):
        raise TypeError(f"a denoiser must answer Pred(x0), x0 of x's shape; got {type(pred).__name__}")
    if not isinstance(pred.x0, Tensor) or pred.x0.shape != x.shape:  # pyright: ignore
        found = tuple(getattr(pred.x0, "shape", ())) or type(pred.x0).__name__
        raise ValueError(f"a denoiser must answer x0 of x's shape, {tuple(x.shape)}; got {found}")
    return pred


def part_at(ends: Sequence[int], i: int) -> tuple[int, int]:
    """(part, step within it) of step i of a run in parts.

    Args:
        ends: Number of steps taken at the end of each part, ascending.
        i: Step of the whole run, from 0; the number of all steps gives (len(ends), 0).
    """
    k = bisect.bisect_right(ends, i)
    return k, i - (ends[k - 1] if k else 0)


def iterate(run: Steps, start: Latent | State, *, allow_nonfinite: bool = False) -> Iterator[State]:
    """Step to the end and give each state; the caller may preview, save, edit or stop between any two.

    Args:
        run: What is iterated.
        start: A noisy latent, or any state.
        allow_nonfinite: Go on with NaN or infinity in the latent.

    Raises:
        FloatingPointError: The latent has NaN or infinity; the error names the step. On the CPU it is raised after
            that step, elsewhere a few steps later or at the end.
    """
    st = start if isinstance(start, State) else run.start(start)
    seen = Finite()
    while not run.done(st):
        st = run.step(st)
        if not allow_nonfinite:
            seen = seen.after(st)
        yield st
    seen.check()


def finish(run: Steps, start: Latent | State, *, allow_nonfinite: bool = False) -> State:
    """The state at the end, from a noisy latent or any state; arguments and errors as for `iterate`."""
    last = start if isinstance(start, State) else run.start(start)
    for state in iterate(run, last, allow_nonfinite=allow_nonfinite):
        last = state
    return last


def sample(
    denoise: Denoiser,
    x: Latent,
    sigmas: Tensor | Sequence[float],
    sampler: str = "euler",
    *,
    process: Process = VE(),
    clock: Clock | None = None,
    noise: Noise | None = None,
    seed: int = 0,
    allow_nonfinite: bool = False,
    **params: Any,
) -> Tensor:
    """x at the end of the schedule: a whole run in one call.

    Args:
        denoise: The guided model.
        x: Noisy latent [B, C, *space] at sigmas[0], float32 or float64.
        sigmas: Noise levels [steps + 1] that descend, or a field [steps + 1, B, 1, *space] that does everywhere.
        sampler: A name of `SAMPLERS`.
        process: Process that the model was trained on.
        clock: The model's clock, for mods that act in a part of the run.
        noise: Source of the sampler's noise, by default `default_noise` from `seed`.
        seed: Seed of the default source.
        allow_nonfinite: Go on with NaN or infinity in the latent.
        **params: Parameters of the sampler.

    Raises:
        ValueError: The levels do not descend, are fewer than 2 or not finite, x has another type or shape, the sampler
            is unknown or does not take a parameter, or the model answers with another shape than x's.
        TypeError: The model does not answer a `Pred`.
        FloatingPointError: The latent has NaN or infinity, see `iterate`.
    """
    row, grid = SAMPLERS.lookup(sampler), Grid(check_levels(sigmas), process, clock=clock)
    check_latent(x, grid)
    run = Run(denoise, row, grid, noise or default_noise(row.noise, seed, grid, x), params)
    return finish(run, x, allow_nonfinite=allow_nonfinite).x


def check_levels(sigmas: Tensor | Sequence[float]) -> Tensor:
    """Levels [steps + 1, *field] as a tensor; ValueError for fewer than 2, and for levels that ascend somewhere."""
    try:
        sigmas = torch.as_tensor(sigmas)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"sigmas must be a tensor or a list of numbers; got {shown(sigmas)}") from None
    if not sigmas.ndim or len(sigmas) < 2:
        raise ValueError(f"sigmas must be 2 levels or more, the first and the last among them; got {sigmas.numel()}")
    up = (sigmas[1:] > sigmas[:-1]).flatten(1).any(1) if sigmas.ndim > 1 else sigmas[1:] > sigmas[:-1]
    if up.any():
        i = int(up.nonzero()[0])
        some = "" if sigmas.ndim > 1 else f": {float(sigmas[i]):g} is followed by {float(sigmas[i + 1]):g}"
        raise ValueError(f"sigmas must descend; level {i + 1} is above level {i}{some}")
    return sigmas


def check_latent(x: Latent, grid: Grid) -> None:
    """Raise ValueError for a noisy latent that is of another type, not finite, or not of a σ-field's shape."""
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):  # pyright: ignore
        found = x.dtype if isinstance(x, Tensor) else type(x).__name__  # pyright: ignore
        raise ValueError(f"x must be a tensor of float32 or float64; got {found}")
    if not x.is_meta and not bool(x.isfinite().all()):
        raise ValueError("x must be finite; it has NaN or infinity")
    field = grid.sigmas.shape[1:]
    if grid.is_field and (field[0] not in (1, *x.shape[:1]) or field[2:] != x.shape[2:]):
        rule = f"one level for each position of x, {tuple(x.shape)}"
        got = tuple(grid.sigmas.shape)
        raise ValueError(f"sigmas must be a field [steps + 1, B, 1, *space] with {rule}; got {got}")
