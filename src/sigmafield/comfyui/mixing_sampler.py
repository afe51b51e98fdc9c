"""The sampler of IterativeMixingSampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sigmafield.comfyui.sampling import Asked, Begun
from sigmafield.runs.mixing import Mixing


@dataclass(frozen=True)
class MixingSampler:
    """Iterative mixing of a latent with itself, noised.

    Args:
        make: `mixing_run` with its settings: the run from what a sampling node asks for.
    """

    make: Callable[..., Mixing]

    def open(self, asked: Asked) -> Begun:
        """A mixing run from the source; the run's noise is not used, since the levels have noise of their own."""
        run = self.make(
            asked.guider, asked.sampling, asked.sigmas, asked.source, seed=asked.stream.initial_seed(),
            mask=asked.mask, mask_of=asked.mask_of,
        )  # fmt: skip
        return Begun(run, run.start(asked.source))
