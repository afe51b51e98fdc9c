"""The sampler of SamplerLCMUpscale."""

from __future__ import annotations

from dataclasses import dataclass

from sigmafield.comfyui.sampling import Asked, Begun
from sigmafield.core.grid import Grid
from sigmafield.runs.lcm_upscale import LcmUpscale


@dataclass(frozen=True)
class LcmUpscaleSampler:
    """Consistency sampling whose latent grows between the steps.

    Args:
        scale: Last size in multiples of the first.
        steps: Number of steps in which the latent grows; None for half of them.
        mode: Interpolation.
    """

    scale: float = 1.0
    steps: int | None = None
    mode: str = "bislerp"

    def open(self, asked: Asked) -> Begun:
        """A run; each sample's noise follows from the run's seed and the sample's number."""
        if asked.mask is not None:
            raise ValueError("SamplerLCMUpscale needs a latent without noise_mask, since the latent grows")
        process, seed = asked.sampling.process, asked.stream.initial_seed()
        seeds = [(seed + k) % 2**64 for k in range(len(asked.source))]
        grid = Grid(asked.sigmas, process, clock=asked.sampling.clock)
        run = LcmUpscale(asked.guider, grid, seeds, self.scale, self.steps, self.mode)
        return Begun(run, run.start(process.start(grid.sigmas[0], asked.noise, asked.source)))
