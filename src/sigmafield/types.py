"""The roles that meet in a run: what a method asks, what a denoiser answers, what a state holds.

Glossary, used everywhere: `x` noisy latent, `D` denoised, `U` unconditional denoised, `sigma` noise level,
`lam` = ln(alpha/sigma), `h` step in lam, `xi` unit-variance noise, `mem` a method's memory, `aux` a wrapper's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

if TYPE_CHECKING:
    from sigmafield.grid import Span

Latent = Float[Tensor, "batch channels *space"]
"""A batch of latents, clean or noisy; *space is (width), (height, width) or (frames, height, width)."""

Images = Float[Tensor, "batch 3 height width"]
"""Pictures in RGB, values 0 … 1."""

Sigma = Float64[Tensor, "*field"]
"""A noise level, or a coefficient that follows from one: float64 on the CPU, 0-d or a field [B, 1, *space]."""

Memory = dict[str, Any]
"""Values carried from step to step: Tensor, float, bool, or a tuple of floats. Replaced, never mutated."""


class Pred(NamedTuple):
    """The answer to one evaluation: predictions of the clean latent, each of x's shape."""

    x0: Latent
    cond: Latent | None = None
    uncond: Latent | None = None

    @property
    def U(self) -> Latent:
        """The unconditional prediction, for methods that need it; ValueError if the denoiser gave none."""
        if self.uncond is None:
            raise ValueError("this method needs the unconditional prediction: answer Pred(x0, cond, uncond)")
        return self.uncond


@dataclass(frozen=True)
class State:
    """Everything that is needed to continue a run, at a step boundary.

    i: steps (attempts, for an adaptive method) taken; x: the noisy latent, float32 or float64;
    mem, aux: memory of the method and of the wrappers; rng: state of the noise source, if it has one;
    nfe: evaluations so far; pred: answer to the last step's first evaluation, for previews (not saved).
    """

    i: int
    x: Latent
    mem: Memory = field(default_factory=dict)
    aux: Memory = field(default_factory=dict)
    rng: Tensor | None = None
    nfe: int = 0
    pred: Pred | None = None


@dataclass
class Ctx:
    """What a wrapper may know of the step that it serves; `aux` is its memory, copied into the next State.

    want: where the prediction will be used, [B or 1, 1, *space] on the CPU; None: everywhere. What is not wanted need
    not be evaluated and may be any finite number. patches: what is done to the network in its calls, the last one
    outermost; notes: what they saw there, for the mods that follow in the same evaluation; plan: what was decided for
    the guided prediction that is being made, its further evaluations included. part: which conditionings and which part
    of the latent the network is asked about, in plain values: what is kept of a call is kept under it.
    """

    span: Span
    aux: Memory
    need_uncond: bool = False
    want: Bool[Tensor, "batch 1 *space"] | None = None
    patches: tuple[Patch, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    part: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Area:
    """A box of the latent: its size and its offset along each axis of space, (height, width) or with frames in front.

    relative: in shares of the latent, 0 … 1, instead of places. Raises ValueError if the two have other lengths.
    """

    size: tuple[int | float, ...]
    offset: tuple[int | float, ...]
    relative: bool = False

    def __post_init__(self) -> None:
        if len(self.size) != len(self.offset):
            raise ValueError(f"size and offset must have an entry for each axis; got {self.size} and {self.offset}")


class Residuals(NamedTuple):
    """What a control adds inside of a UNet: empty, or None, where it adds nothing.

    skips: to each skip connection of the way down; middle: behind the middle block; blocks: within each down block.
    """

    skips: Sequence[Tensor] = ()
    middle: Tensor | None = None
    blocks: Sequence[Tensor] = ()


@runtime_checkable
class ControlNetwork(Protocol):
    """A side network that reads a picture: what a `Control` holds; `load_control` gives one."""

    @property
    def factor(self) -> int:
        """Pixels of the hint along a side for one place of the latent."""
        ...

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, hint: Tensor, strength: float, /) -> Residuals:
        """From the network's own inputs and the hint [B, 3, factor · height, factor · width], times the strength."""
        ...


@dataclass(frozen=True)
class Control:
    """A picture that steers the network, by a side network that reads it. ControlNet, arXiv:2302.05543.

    hint: [B or 1, 3, height, width] in [0, 1], for the whole latent; another size is cut to the latent's proportions
    and resized. strength: factor of what is added, 0 = nothing; window: as a conditioning's.
    """

    net: ControlNetwork
    hint: Tensor
    strength: float = 1.0
    window: tuple[float | None, float | None] = (None, None)

    def __post_init__(self) -> None:
        if self.hint.ndim != 4 or self.hint.shape[1] != 3:
            raise ValueError(f"a control's hint must be [B, 3, height, width]; got shape {tuple(self.hint.shape)}")


@dataclass(frozen=True)
class Cond:
    """One conditioning: what the network is told besides x and the timestep, and where and when.

    embeds: token embeddings [B or 1, tokens, channels]; extra: further inputs by the network's own names
    (SDXL's `text_embeds` and `time_ids`), each with a leading axis of B or 1.
    strength: weight against other conditionings of the same prompt; area: the box that it acts in; mask: weights
    [M, *space] or [*space] at any resolution, times mask_strength; bounds: act in the box around the mask only;
    window: shares of the way through sampling between which it acts, 0 = start; default: acts where no other does.
    concat: further channels of the network's input [B or 1, C', *space], not scaled with x: an inpainting network's
    mask and picture; controls: pictures that steer the network, whose effects add up.
    role: what it is to the guider that asks: positive, negative, …; the guider says so.
    """

    embeds: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    strength: float = 1.0
    area: Area | None = None
    mask: Tensor | None = None
    mask_strength: float = 1.0
    bounds: bool = False
    window: tuple[float | None, float | None] = (None, None)
    default: bool = False
    concat: Tensor | None = None
    controls: Sequence[Control] = ()
    role: str = ""


Network = Callable[[Tensor, Tensor, Cond], Tensor]
"""Raw network: (scaled input [B, C, *space] float32, timestep [B], conditioning of B rows) → F, of that shape."""


@dataclass(frozen=True)
class Call:
    """One call of a network, as a patch may know it.

    module: the torch module behind the network; sigma: of the call, 0-d or [rows, 1, …]; roles: what each row's
    conditioning is to the guider; ctx: the step, with memory in `ctx.aux`.
    """

    module: nn.Module
    sigma: Sigma
    roles: tuple[str, ...]
    ctx: Ctx


Patch = Callable[[Network, Call], Network]
"""Another network for one call. What it does to the module has to be undone when that returns."""


@runtime_checkable
class Denoiser(Protocol):
    """Guided prediction: all that a method sees of a model."""

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx, /) -> Pred: ...


@runtime_checkable
class Model(Protocol):
    """One network asked about several conditionings at once; answers the clean latent for each.

    x: the rows of the first conditioning, then those of the second, …: [len(conds) · B, C, *space].
    """

    def __call__(self, x: Latent, sigma: Sigma, conds: Sequence[Cond], ctx: Ctx, /) -> list[Tensor]: ...


@runtime_checkable
class Noise(Protocol):
    """Unit-variance noise for an interval of the schedule, so that Brownian paths fit as well."""

    def __call__(self, span: Span, /) -> Latent: ...

    def get_state(self) -> Tensor | None:
        """State of the stream between two steps; None where draws depend on the interval alone."""
        ...

    def set_state(self, state: Tensor | None, /) -> None:
        """Begin a step in `state`, as get_state gave it."""
        ...


Step = Generator[tuple[Latent, Sigma], Pred, tuple[Latent, Memory]]
"""One step of a method: yields what it wants evaluated, is sent the answer, returns the new x and its memory."""
