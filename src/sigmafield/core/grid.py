"""A schedule with its process: whole, checked once, and cut into intervals."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sigmafield.core.process import Clock, Flow, Process, Span
from sigmafield.core.typed import numbers


@dataclass(frozen=True)
class Grid:
    """A schedule with its process.

    Args:
        sigmas: n + 1 noise levels, [n + 1] or a σ-field [n + 1, B, 1, *space]; kept as float64 on the CPU.
        process: The process that adds noise.
        asked: Number of steps before a sampler changed the schedule; None where it is as given.
        clock: The network's clock, for mods that act in a part of the run.

    Raises:
        ValueError: A level is negative, not finite or, in a flow, above 1.
    """

    sigmas: Tensor
    process: Process
    asked: int | None = None
    clock: Clock | None = field(default=None, repr=False)
    kept: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any], init=False, repr=False, compare=False)
    """What `Span.of_run` has computed."""

    def __post_init__(self) -> None:
        sigmas = torch.as_tensor(self.sigmas).detach().to("cpu", torch.float64)
        if sigmas.ndim == 0 or sigmas.ndim == 2 or (sigmas.ndim > 2 and sigmas.shape[2] != 1):
            raise ValueError(
                f"sigmas must be [steps + 1] or a field [steps + 1, B, 1, *space]; got shape {tuple(sigmas.shape)}"
            )
        if not torch.isfinite(sigmas).all() or (sigmas < 0).any():
            raise ValueError(f"sigmas must be finite and ≥ 0; got {_some(sigmas, ~(sigmas >= 0) | sigmas.isinf())}")
        if isinstance(self.process, Flow) and (sigmas > 1).any():
            raise ValueError(f"sigmas of a flow lie in [0, 1]; got {_some(sigmas, sigmas > 1)}")
        object.__setattr__(self, "sigmas", sigmas)

    @cached_property
    def n(self) -> int:
        """Number of steps; 0 for an empty schedule or a single level."""
        return max(len(self.sigmas) - 1, 0)

    @property
    def is_field(self) -> bool:
        """Whether the noise level varies over the latent."""
        return self.sigmas.ndim > 1

    def span(self, i: int) -> Span:
        """Interval i, 0 ≤ i < n."""
        return Span(
            self.sigmas[i], self.sigmas[i + 1], self.process, i, self.n, self.sigmas, self.asked or self.n, self.clock,
            self.kept,
        )  # fmt: skip


def _some(values: Tensor, where: Tensor) -> str:
    """The first few offending values, for an error message."""
    return ", ".join(f"{v:g}" for v in numbers(values[where].flatten()[:3]))
