"""The only loop: a run is stepped from state to state, and whoever iterates decides what happens between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sigmafield.brownian import Brownian
from sigmafield.grid import VE, Grid, Process, Span
from sigmafield.methods.dpm import END
from sigmafield.methods.registry import Method, lookup
from sigmafield.noise import Gaussian, Keyed, Pair, Silent
from sigmafield.types import Ctx, Denoiser, Latent, Noise, Pred, State


@dataclass(frozen=True)
class Run:
    """A denoiser, a method, a schedule and a noise source: all that a run needs besides its start.

    params: the method's keyword parameters. Raises ValueError for unknown ones and values out of their ranges, for a
    σ-field where the method needs one σ per step, and for a method that draws noise without a source.
    """

    denoise: Denoiser
    method: Method
    grid: Grid
    noise: Noise = Silent()
    params: Mapping[str, Any] = field(default_factory=dict)
    rng: Tensor | None = field(init=False, default=None, repr=False)
    """The noise source's state when the run was made: every start of this run begins there."""
    end: Tensor = field(init=False, repr=False)
    """The last level, which `Process.finish` is given: the schedule's own where a method stops before it."""

    def __post_init__(self) -> None:
        name, sigmas = self.method.name, self.grid.sigmas
        self.method.check(self.params)
        object.__setattr__(self, "params", {**self.method.params, **self.params})
        if self.method.adaptive and self.grid.is_field:
            raise ValueError(
                f"{name} chooses its own steps and needs one sigma per step; got a field {tuple(sigmas.shape)}"
            )
        if self.method.grid is not None:
            object.__setattr__(self, "grid", self.method.grid(self.grid, {**self.method.values, **self.params}))
        if isinstance(self.noise, Silent) and self.draws:
            raise ValueError(f"{name} draws noise: give a source, such as Keyed(seeds, x.shape)")
        object.__setattr__(self, "rng", self.noise.get_state())
        object.__setattr__(self, "end", (sigmas if self.method.stops_early else self.grid.sigmas)[-1:].squeeze(0))

    @property
    def draws(self) -> bool:
        """Whether the method, with these parameters, asks for noise."""
        p = {**self.method.values, **self.params}
        if self.method.noise == "churn":
            return p["s_churn"] > 0
        if self.method.noise == "gaussian_pair":
            return any(p[f"{part}eta"] and p[f"{part}s_noise"] for part in ("", "distance_step_"))
        return self.method.noise != "none" and p.get("eta", 1.0) > 0 and p.get("s_noise", 1.0) > 0

    def start(self, x: Latent) -> State:
        """The state before the first step, from the noisy latent x [B, C, *space] (float32 or float64)."""
        return State(0, x, rng=self.rng)

    def done(self, st: State) -> bool:
        """Whether the schedule has come to its end."""
        if not self.method.adaptive or not self.grid.n:
            return st.i >= self.grid.n
        return bool(st.mem.get("done", self.grid.n == 1 and self.span(0).ve.h <= END))

    def progress(self, st: State) -> float:
        """Share of the run that is done, 0 … 1; in λ for an adaptive method."""
        if self.done(st):
            return 1.0
        if not self.method.adaptive:
            return st.i / self.grid.n
        span = self.span(0).ve
        return float((st.mem.get("lam", float(span.lam)) - span.lam) / span.h.clamp(min=END))

    def span(self, i: int) -> Span:
        """The interval that step i works on: the whole run for an adaptive method."""
        return replace(self.grid.span(0), i=i) if self.method.adaptive else self.grid.span(i)

    @torch.no_grad()
    def step(self, st: State) -> State:
        """The state after one step. Pure: `st` is unchanged, and the same state gives the same result."""
        span = self.span(st.i)
        ctx = Ctx(span, dict(st.aux), self.method.need_uncond)
        self.noise.set_state(st.rng)
        gen = self.method.step(st.x, span, st.mem, self.noise, **self.params)
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


@runtime_checkable
class Steps(Protocol):
    """What can be iterated: a `Run`, or one that is edited between its steps (`spatial.mixing.Mixing`)."""

    def start(self, x: Latent, /) -> State: ...

    def done(self, st: State, /) -> bool: ...

    def step(self, st: State, /) -> State: ...


def iterate(run: Steps, start: Latent | State) -> Iterator[State]:
    """Step until the schedule ends, giving each state: preview, save, edit or stop between any two."""
    st = start if isinstance(start, State) else run.start(start)
    while not run.done(st):
        yield (st := run.step(st))


def finish(run: Steps, start: Latent | State) -> State:
    """The state at the end of the schedule."""
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
    noise: Noise | None = None,
    seed: int = 0,
    **params: Any,
) -> Tensor:
    """x at the end of the schedule: the whole run in one call.

    x: noisy latent [B, C, *space] at sigmas[0]; sigmas: [steps + 1], or a field [steps + 1, B, 1, *space];
    sampler: a name of `METHODS`, with its `params`; noise: default `default_noise(...)` from `seed`.
    """
    method, grid = lookup(sampler), Grid(sigmas, process)
    run = Run(denoise, method, grid, noise or default_noise(method, seed, grid, x), params)
    return finish(run, x).x


def default_noise(method: Method, seed: int, grid: Grid, x: Latent) -> Noise:
    """The source that ComfyUI would give the method; for a σ-field, keyed by the sample.

    A stream on the CPU is seeded with seed + 1, since the initial noise was drawn there with `seed`; a pair's second
    stream with 42 more.
    """
    of_x = {"shape": x.shape, "dtype": x.dtype, "device": x.device}
    if method.noise == "none":
        return Silent()
    if grid.is_field:
        return Keyed([seed + k for k in range(x.shape[0])], **of_x)
    if method.noise == "brownian":
        return Brownian(seed, grid, **of_x)
    if method.noise == "brownian_device":
        return Brownian(seed, grid, **of_x, drawn_on=x.device, times=x.dtype)
    if method.noise == "churn":
        return Gaussian(seed, **of_x)
    own = seed + (x.device.type == "cpu")
    if method.noise == "gaussian_pair":
        return Pair(Gaussian(own, **of_x), Gaussian(own + 42, **of_x))
    return Gaussian(own, **of_x)
