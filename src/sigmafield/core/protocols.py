"""The roles of a run: what a sampler asks, what a denoiser answers, what a state holds.

Glossary, used everywhere: `x` noisy latent, `D` denoised, `U` unconditional denoised, `sigma` noise level,
`lam` = ln(alpha/sigma), `h` step in lam, `xi` unit-variance noise, `mem` a sampler's memory, `aux` a wrapper's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool
from torch import Tensor, nn

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond
from sigmafield.core.memory import Memory
from sigmafield.core.process import Span


class Pred(NamedTuple):
    """The answer to one evaluation: predictions of the clean latent, each of x's shape."""

    x0: Latent
    cond: Latent | None = None
    uncond: Latent | None = None

    @property
    def U(self) -> Latent:
        """The unconditional prediction, for samplers that need it; ValueError if the denoiser gave none."""
        if self.uncond is None:
            raise ValueError("this sampler needs the unconditional prediction: answer Pred(x0, cond, uncond)")
        return self.uncond


@dataclass(frozen=True)
class State:
    """Everything that is needed to continue a run, at a step boundary.

    Args:
        i: Steps taken; attempts, for an adaptive sampler.
        x: The noisy latent, float32 or float64.
        mem: Memory of the sampler.
        aux: Memory of the wrappers.
        rng: State of the noise source, if it has one.
        nfe: Evaluations so far.
        pred: Answer to the last step's first evaluation, for previews; it is not saved.
    """

    i: int
    x: Latent
    mem: Memory = field(default_factory=dict[str, Any])
    aux: Memory = field(default_factory=dict[str, Any])
    rng: Tensor | None = None
    nfe: int = 0
    pred: Pred | None = None


@dataclass
class Ctx:
    """What wrappers know of the step that they serve.

    Args:
        span: The interval of the schedule.
        aux: Memory of the wrappers, copied into the next State.
        need_uncond: Whether the sampler needs the unconditional prediction.
        want: Where the prediction will be used, [B or 1, 1, *space] on the CPU; None: everywhere. Elsewhere it need not
            be evaluated and may be any finite number.
        patches: Changes of the network in its calls, the last one outermost.
        notes: What patches observed, for the mods that follow in the same evaluation.
        plan: What was decided for the guided prediction that is being made, its further evaluations included.
        part: Which conditionings and which part of the latent the network is asked about, in plain values.
    """

    span: Span
    aux: Memory
    need_uncond: bool = False
    want: Bool[Tensor, "batch 1 *space"] | None = None
    patches: tuple[Patch, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict[str, Any])
    plan: dict[str, Any] = field(default_factory=dict[str, Any])
    part: tuple[Any, ...] = ()


Network = Callable[[Tensor, Tensor, Cond], Tensor]
"""Raw network: (scaled input [B, C, *space] float32, timestep [B], conditioning of B rows) → F, of that shape."""


@dataclass(frozen=True)
class Call:
    """One call of a network, as patches know it.

    Args:
        module: The network's torch module, or a view of it that belongs to this call alone.
        sigma: Noise levels of the call, 0-d or [rows, 1, …].
        roles: What each row's conditioning is to the guider.
        ctx: The step, with memory in `ctx.aux`.
    """

    module: nn.Module
    sigma: Sigma
    roles: tuple[str, ...]
    ctx: Ctx


Patch = Callable[[Network, Call], Network]
"""(network, call) → another network for that call; changes of the module have to be undone when it returns."""


@runtime_checkable
class Denoiser(Protocol):
    """Guided prediction: all that a sampler sees of a model."""

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx, /) -> Pred: ...


@runtime_checkable
class Model(Protocol):
    """One network asked about several conditionings at once; answers the clean latent for each.

    x: the rows of the first conditioning, then those of the second, …: [len(conds) · B, C, *space].
    """

    def __call__(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx, /) -> list[Tensor]: ...


@runtime_checkable
class Noise(Protocol):
    """Unit-variance noise for an interval of the schedule, as Brownian paths need it."""

    def __call__(self, span: Span, /) -> Latent: ...

    def get_state(self) -> Tensor | None:
        """State of the stream between two steps; None where draws depend on the interval alone."""
        ...

    def set_state(self, state: Tensor | None, /) -> None:
        """Begin a step in `state`, as get_state gave it."""
        ...


Step = Generator[tuple[Latent, Sigma], Pred, tuple[Latent, Memory]]
"""One step of a sampler: yields what it wants evaluated, is sent the answer, returns the new x and its memory."""


@runtime_checkable
class Steps(Protocol):
    """What can be iterated: a `Run`, a run with mixing between its steps, or several runs in phases."""

    @property
    def n(self) -> int:
        """Number of steps; of intervals in the schedule for a sampler that chooses its own."""
        ...

    def start(self, x: Latent, /) -> State:
        """The state before the first step."""
        ...

    def done(self, st: State, /) -> bool:
        """Whether the last step has been taken."""
        ...

    def step(self, st: State, /) -> State:
        """The state after one step. Pure: the same state gives the same result."""
        ...

    def progress(self, st: State, /) -> float:
        """Share of the work that is done, 0 … 1."""
        ...

    def result(self, st: State, /) -> Latent:
        """The clean latent of a state at the end."""
        ...

    def label(self, st: State, /) -> str:
        """Where the run is, for people: "phase 2 of 4, 128x128"; "" where progress says enough."""
        ...
