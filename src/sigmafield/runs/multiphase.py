"""A run in phases, each at a larger size than the one before, as in DemoFusion. arXiv:2311.16973."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.memory import Memory, Slot
from sigmafield.core.protocols import State
from sigmafield.core.resize import resize
from sigmafield.core.statistics import moments, standardised
from sigmafield.runs.mixing import Mixing
from sigmafield.runs.run import Run, iterate, part_at


@dataclass(frozen=True)
class Anchor:
    """What the end of each phase is brought to: the moments of each sample of the first one, [B, 1, …]."""

    mean: Tensor
    std: Tensor


ANCHOR: Slot[Anchor] = Slot("phases", Anchor)
"""Where a state's aux holds it."""


@dataclass(frozen=True)
class Phase:
    """The steps at one size.

    Args:
        scale: Size in multiples of the first phase's.
        size: (height, width) in pixels.
        run: The run, mixed with the latent of the phase before in all phases but the first.
    """

    scale: int
    size: tuple[int, int]
    run: Run | Mixing

    @property
    def n(self) -> int:
        """Number of steps."""
        return self.run.n

    @property
    def work(self) -> int:
        """Cost of all steps, in steps of the first phase: a step at q times the size counts q²."""
        return self.n * self.scale**2


@dataclass(frozen=True)
class Phases:
    """Phases as one run, which `iterate` takes; the states' i counts steps over all of them.

    Each phase starts from the latent of the one before, enlarged by bicubic interpolation and noised. At its end the
    latent is brought, sample by sample, to the mean and deviation of the first phase's result, or to those of the
    latent that the first phase started from, if that is mixed as well.

    Args:
        phases: The phases, the smallest first.
        factor: Pixels per latent position along a side.
    """

    phases: Sequence[Phase]
    factor: int = 8

    @property
    def starts_clean(self) -> bool:
        """Whether `start` takes a clean latent, because the first phase is mixed."""
        return self.phases[0].run.starts_clean

    @cached_property
    def ends(self) -> list[int]:
        """Number of steps taken at the end of each phase."""
        return list(accumulate(phase.n for phase in self.phases))

    @property
    def n(self) -> int:
        """Number of steps of all phases."""
        return self.ends[-1]

    def where(self, i: int) -> tuple[int, int]:
        """(phase, step within it) of step i of all phases."""
        return part_at(self.ends, i)

    def start(self, x: Latent) -> State:
        """The state before the first step, from the noisy latent, or the clean one where the first phase is mixed."""
        return State(0, x, aux=_anchored({}, x)) if self.starts_clean else self.phases[0].run.start(x)

    def done(self, st: State) -> bool:
        """Whether the last phase has ended."""
        return st.i >= self.n

    def progress(self, st: State) -> float:
        """Share of the work that is done, 0 … 1."""
        if self.done(st):
            return 1.0
        total = sum(phase.work for phase in self.phases)
        k, i = self.where(st.i)
        return (sum(phase.work for phase in self.phases[:k]) + i * self.phases[k].scale ** 2) / total

    def result(self, st: State) -> Latent:
        """The clean latent of a state at the end of any phase."""
        return st.x

    def label(self, st: State) -> str:
        """Which phase the run is in, and its size in pixels: "phase 2 of 4, 256x256"."""
        k, _ = self.where(min(st.i, self.n - 1))
        height, width = self.phases[k].size
        return f"phase {k + 1} of {len(self.phases)}, {width}x{height}"

    def walk(self, start: State) -> Iterator[tuple[Phase, State]]:
        """Run on from any state and give each phase with the state at its end."""
        for state in iterate(self, start):
            if state.i in self.ends:
                yield self.phases[self.ends.index(state.i)], state

    @torch.no_grad()
    def step(self, st: State) -> State:
        """The state after one step. Pure, like a run's."""
        k, i = self.where(st.i)
        phase = self.phases[k]
        if not i and phase.run.starts_clean:
            st = self._begun(phase, st)
        local = phase.run.step(replace(st, i=i))
        if i + 1 == phase.n:
            x, anchor = phase.run.result(local), ANCHOR.read(local.aux)
            if anchor is not None:
                x = standardised(x, anchor.mean, anchor.std)
            local = replace(local, x=x, aux=_anchored({}, x, anchor))
        return replace(local, i=st.i + 1)

    def _begun(self, phase: Phase, st: State) -> State:
        """The state before the first step of a mixed phase, from the end of the one before."""
        height, width = (side // self.factor for side in phase.size)
        fresh = phase.run.start(resize(st.x, height, width, "bicubic"))
        return replace(fresh, i=st.i, aux=_anchored(fresh.aux, st.x, ANCHOR.read(st.aux)), nfe=st.nfe)


def _anchored(aux: Memory, x: Latent, anchor: Anchor | None = None) -> Memory:
    """The memory with an anchor in it, by default the moments of x."""
    aux = dict(aux)
    ANCHOR.write(aux, anchor or Anchor(*moments(x)))
    return aux
