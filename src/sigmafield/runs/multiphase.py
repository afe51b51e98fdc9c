"""A run in phases, each at a larger size than the one before: DemoFusion's order of events. arXiv:2311.16973."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch

from sigmafield.core.arrays import Latent
from sigmafield.core.memory import Memory
from sigmafield.core.protocols import State
from sigmafield.core.resize import resize
from sigmafield.core.statistics import moments, standardised
from sigmafield.runs.mixing import Mixing
from sigmafield.runs.run import Run, iterate

MEAN, STD = "demofusion.mean", "demofusion.std"
"""Names in a state's aux: what each phase's end is brought to, of each sample of the first."""


@dataclass(frozen=True)
class Phase:
    """The steps at one size: scale times the first, (height, width) in pixels, and the run; the first is not mixed."""

    scale: int
    size: tuple[int, int]
    run: Run | Mixing

    @property
    def plain(self) -> Run:
        """The run itself, without the skip residual."""
        return plain(self.run)

    @property
    def n(self) -> int:
        """Steps."""
        return self.plain.grid.n

    @property
    def places(self) -> int:
        """Places of the latent that its steps work on, in terms of one step of the first phase."""
        return self.n * self.scale**2


@dataclass(frozen=True)
class Phases:
    """Phases as one run, which `iterate` takes; the states' i counts steps over all of them.

    A phase begins with the latent of the one before, enlarged by bicubic interpolation and noised; at its end the
    latent has the mean and deviation, sample by sample, of the first phase's, or of the latent that all began with.
    """

    phases: Sequence[Phase]
    factor: int = 8

    @cached_property
    def ends(self) -> list[int]:
        """The steps that are done at the end of each phase."""
        return list(accumulate(phase.n for phase in self.phases))

    def place(self, i: int) -> tuple[int, int]:
        """(phase, step within it) of the i-th step in all."""
        k = next(k for k, end in enumerate(self.ends) if i < end)
        return k, i - (self.ends[k - 1] if k else 0)

    def start(self, x: Latent) -> State:
        """The state before the first step: from noise, or where the first phase is mixed from a clean latent."""
        first = self.phases[0].run
        return State(0, x, aux=_anchor(x)) if isinstance(first, Mixing) else first.start(x)

    def done(self, st: State) -> bool:
        """Whether the last phase has come to its end."""
        return st.i >= self.ends[-1]

    def progress(self, st: State) -> float:
        """Share of the work that is done, 0 … 1: a step at q times the size is q² steps of the first."""
        if self.done(st):
            return 1.0
        total = sum(phase.places for phase in self.phases)
        k, i = self.place(st.i)
        return (sum(phase.places for phase in self.phases[:k]) + i * self.phases[k].scale ** 2) / total

    def result(self, st: State) -> Latent:
        """The clean latent of a state at the end of any phase."""
        return st.x

    def label(self, st: State) -> str:
        """Which phase the run is in, and its size in pixels."""
        k, _ = self.place(min(st.i, self.ends[-1] - 1))
        height, width = self.phases[k].size
        return f"phase {k + 1} of {len(self.phases)}, {width}x{height}"

    def walk(self, start: State) -> Iterator[tuple[Phase, State]]:
        """Each phase with the state at its end; start: any state to go on from."""
        for state in iterate(self, start):
            if state.i in self.ends:
                yield self.phases[self.ends.index(state.i)], state

    @torch.no_grad()
    def step(self, st: State) -> State:
        """The state after one step. Pure, as a run's."""
        k, i = self.place(st.i)
        phase = self.phases[k]
        if isinstance(phase.run, Mixing) and not i:
            st = self._begun(phase.run, phase.size, st)
        local = phase.run.step(replace(st, i=i))
        if i + 1 == phase.n:
            x = phase.run.result(local)
            if MEAN in local.aux:
                anchor = {name: local.aux[name] for name in (MEAN, STD)}
                x = standardised(x, anchor[MEAN], anchor[STD])
            else:
                anchor = _anchor(x)
            local = replace(local, x=x, aux=anchor)
        return replace(local, i=st.i + 1)

    def _begun(self, mixing: Mixing, size: tuple[int, int], st: State) -> State:
        """The state before the first step of a mixed phase, from the end of the one before."""
        height, width = (side // self.factor for side in size)
        fresh = mixing.start(resize(st.x, height, width, "bicubic"))
        anchor = {name: st.aux[name] for name in (MEAN, STD)}
        return replace(fresh, i=st.i, aux={**fresh.aux, **anchor}, nfe=st.nfe)


def _anchor(x: Latent) -> Memory:
    return dict(zip((MEAN, STD), moments(x)))


def plain(run: Run | Mixing) -> Run:
    """A run without what is mixed into it between its steps."""
    return run.run if isinstance(run, Mixing) else run
