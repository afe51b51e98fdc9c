"""NaN and infinity in a latent: found at the step that they come from, without waiting for the device in each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sigmafield.core.protocols import State

HELP = (
    "what usually helps: bfloat16 or float32 in place of float16, a smaller cfg, smaller weights in the prompt; "
    "allow_nonfinite goes on all the same"
)
"""The end of the error."""


@dataclass(frozen=True)
class Finite:
    """Which of a run's states was the first whose latent is not finite.

        seen = Finite()
        for state in …: seen = seen.after(state)
        seen.check()

    The answer stays on the latent's device. On the CPU it is read after every step; elsewhere, where reading waits for
    all that was queued, after steps 1, 2, 4, 8, … and by `check`.

    Args:
        first: Index of that state, 0-d; −1 while all were finite. None before the first state.
    """

    first: Tensor | None = None

    @torch.no_grad()
    def after(self, state: State) -> Finite:
        """What is known with one more state; FloatingPointError as `check`, where that costs no waiting."""
        if state.x.is_meta:
            return self
        ends = torch.aminmax(state.x) if state.x.numel() else ()  # in one pass; NaN is both ends
        if state.x.device.type == "cpu":
            self.check()
            if not all(math.isfinite(end.item()) for end in ends):
                raise nonfinite(state.i)
            return self
        before = torch.full((), -1, dtype=torch.int64, device=state.x.device) if self.first is None else self.first
        broken = (before < 0) & (~torch.stack(ends).isfinite().all() if ends else False)
        seen = Finite(torch.where(broken, state.i, before))
        if state.i & (state.i - 1) == 0:
            seen.check()
        return seen

    def check(self) -> None:
        """Raise FloatingPointError, which names the step, if a latent was not finite."""
        i = -1 if self.first is None else int(self.first)
        if i >= 0:
            raise nonfinite(i)


def nonfinite(step: int) -> FloatingPointError:
    """The error of a latent that is not finite after a step."""
    return FloatingPointError(f"the latent has NaN or infinity after step {step}; {HELP}")


def check_decoded(images: Tensor) -> None:
    """Raise FloatingPointError for decoded images with NaN, which would become black."""
    if not bool(images.isfinite().all()):
        raise FloatingPointError(f"the VAE decoded the latent to NaN or infinity; {HELP}")
