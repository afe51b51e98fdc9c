"""A run turned inside out: the caller evaluates the network, sends its answers in and gets the next request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.grid import Grid
from sigmafield.core.memory import Memory
from sigmafield.core.process import Span
from sigmafield.core.protocols import Ctx, Noise, Pred, Step
from sigmafield.noise.policy import default_noise
from sigmafield.noise.sources import Gaussian
from sigmafield.runs.run import Run, iterate
from sigmafield.samplers import Sampler


@dataclass(frozen=True)
class Plan:
    """A sampler on a schedule, and the σ of the evaluations that it requests in each step."""

    run: Run
    grid: Grid
    asked: list[list[Sigma]]

    @property
    def sigmas(self) -> Sigma:
        """σ of every evaluation in order, float64."""
        return torch.stack([sigma for step in self.asked for sigma in step])

    @property
    def starts(self) -> list[int]:
        """Which evaluations begin a step."""
        return [sum(map(len, self.asked[:i])) for i in range(len(self.asked))]

    def rest(self, index: int) -> Plan:
        """The plan of a run that begins at an evaluation.

        Args:
            index: Evaluation at which a step begins.

        Raises:
            ValueError: No step begins there, or the shorter run has other evaluations than the rest of this one.
        """
        if index == 0:
            return self
        run = self.run
        if index in self.starts:
            later = replace(self.grid, sigmas=self.grid.sigmas[self.starts.index(index) :])
            part = plan(run.sampler, later, run.params)
            if torch.equal(part.sigmas, self.sigmas[index:]):
                return part
        raise ValueError(f"{run.sampler.name} cannot begin at evaluation {index} of {len(self.sigmas)}")


def suits_pipelines(sampler: Sampler, params: Mapping[str, Any]) -> None:
    """Raises ValueError for a sampler that cannot run inside a diffusers pipeline, which owns the network."""
    if sampler.adaptive:
        raise ValueError(f"{sampler.name} chooses its own steps, but a pipeline asks for all timesteps beforehand")
    chosen = {**sampler.defaults, **params}
    if sampler.need_uncond or chosen.get("cfgpp", "off") != "off" or chosen.get("use_negative"):
        raise ValueError(
            f"{sampler.name} needs the unconditional prediction, but a pipeline combines both predictions before step"
        )


def plan(sampler: Sampler, grid: Grid, params: Mapping[str, Any]) -> Plan:
    """The plan of a sampler, found by a run over a latent of a single zero.

    The requests of a sampler that does not choose its own steps depend on the schedule only.

    Args:
        sampler: A sampler that does not choose its own steps.
        grid: The schedule.
        params: The sampler's parameters.

    Raises:
        ValueError: The sampler refuses a parameter, or it changes x before the first evaluation of a step, where a
            pipeline evaluates its own x.
    """
    asked: list[list[Sigma]] = []
    requests: list[tuple[Latent, Sigma]] = []

    def record(x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        requests.append((x, sigma))
        return Pred(torch.zeros_like(x))

    x = torch.zeros(1, 1, 1)
    run = Run(record, sampler, grid, Gaussian(0, x.shape), params)
    for state in iterate(run, x):
        if requests[0][0] is not x:
            raise ValueError(
                f"{sampler.name} with {dict(params)} moves x before it evaluates, but a pipeline evaluates the x "
                "that it holds: leave s_churn at 0"
            )
        asked.append([sigma for _, sigma in requests])
        requests.clear()
        x = state.x
    return Plan(run, grid, asked)


class FromGenerators:
    """Noise from torch generators: one for the batch, or one per sample.

    Gaussian noise is drawn in the order of the requests, as diffusers' own schedulers draw it. For a Brownian path each
    generator gives one seed: the next integer below 2⁶³ − 1.

    Args:
        generators: One generator, or one per sample.
        sampler: The sampler that the noise is for.
        grid: The schedule.
        x: A latent of the run, for shape, type and device.

    Raises:
        ValueError: There is another number of generators.
    """

    def __init__(self, generators: Sequence[torch.Generator], sampler: Sampler, grid: Grid, x: Latent):
        if len(generators) not in (1, x.shape[0]):
            raise ValueError(f"give one generator, or one per sample: got {len(generators)} for {x.shape[0]} samples")
        self._parts = list(zip(generators, x.chunk(len(generators)), strict=True))
        self._paths: list[Noise] = []
        if sampler.noise.startswith("brownian"):
            for g, part in self._parts:
                seed = int(torch.randint(2**63 - 1, (), generator=g, device=g.device))
                self._paths.append(default_noise(sampler.noise, seed, grid, part))

    def __call__(self, span: Span) -> Latent:
        if self._paths:
            return torch.cat([path(span) for path in self._paths])
        draws = [torch.randn(p.shape, generator=g, dtype=p.dtype, device=g.device) for g, p in self._parts]
        return torch.cat([xi.to(p.device) for xi, (_, p) in zip(draws, self._parts)])

    def get_state(self) -> None:
        """None: the pipeline owns the generators."""
        return None

    def set_state(self, state: Tensor | None) -> None:
        """Does nothing."""


class InsideOut:
    """A run that is given its predictions, one evaluation at a time.

    Args:
        run: The run; its denoiser is not called.
        noise: Source of the sampler's noise, used by this run only.
    """

    def __init__(self, run: Run, noise: Noise):
        self._run, self._noise = run, noise
        self._i, self._mem = 0, Memory()
        self._step: Step | None = None

    def answer(self, x: Latent, pred: Pred) -> Latent:
        """The latent to evaluate next; after the last evaluation, the clean latent.

        Args:
            x: The latent that was evaluated; at the start of a step it is the state, which the caller may have changed.
            pred: The prediction for it.
        """
        run = self._run
        if self._step is None:
            self._noise.set_state(None)
            self._step = run.sampler.step(x, run.span(self._i), self._mem, self._noise, **run.params)
            next(self._step)
        try:
            return self._step.send(pred)[0]
        except StopIteration as end:
            x, self._mem = end.value
        self._step, self._i = None, self._i + 1
        return x if self._i < run.grid.n else run.grid.process.finish(run.end, x)
