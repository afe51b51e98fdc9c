"""The sampler of IterativeMixingSampler."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sigmafield.comfyui.sampling import Asked, Begun
from sigmafield.core.arrays import Latent
from sigmafield.core.grid import Grid
from sigmafield.core.protocols import Denoiser
from sigmafield.core.registry import named
from sigmafield.noise.policy import default_noise
from sigmafield.noise.sources import Gaussian, generator_of, randn
from sigmafield.parameterization.prediction import Sampling
from sigmafield.runs.blends import BLENDS, blending_weights
from sigmafield.runs.level_noise import StreamLevels
from sigmafield.runs.mixing import Mixing
from sigmafield.runs.perlin_masks import Perlin
from sigmafield.runs.run import Run
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.inpaint import Inpaint, MaskOf, fit_mask, unchanged


@dataclass(frozen=True)
class MixingSampler:
    """Redraws a latent by iterative mixing, with the node's names and defaults.

    Noise is one stream of a seed, where the reference draws from the global generator. The reference takes a batch of
    one; here the samples of a batch follow each other in the stream. Euler's slope is that of the latent with its kept
    part, unlike the reference's, which makes a difference for soft masks only.

    Args:
        sampler: A sampler that follows the schedule, or "euler_perlin", euler with Perlin masks. lcm is blended before
            its noise is added.
        alpha_1: Steepness of the blending schedule.
        blending_schedule: A curve of `CURVES`.
        blending_function: A function of `BLENDS`.
        normalize_on_mean: Whether the result gets the mean and deviation of each channel of the source.
        start_blending_at_pct: Share of the steps at which the blending schedule starts.
        stop_blending_at_pct: Share of the steps at which it reaches its end.
        clamp_blending_at_pct: Share of the steps from which on nothing is blended.
        blend_min: Lowest weight of the denoised latent.
        blend_max: Highest weight of the denoised latent.
        perlin_mode: What Perlin masks do, see `Perlin`.
        perlin_strength: How strongly they act.
        perlin_scale: Latent pixels per lattice cell of the masks.
        rewind: Whether the run starts again with its result as the source.
        rewind_min: Share of the remaining steps that each pass skips.
        rewind_max: Share of the steps after which no pass starts.
    """

    sampler: str = "euler"
    alpha_1: float = 2.4
    blending_schedule: str = "cosine"
    blending_function: str = "addition"
    normalize_on_mean: bool = False
    start_blending_at_pct: float = 0.0
    stop_blending_at_pct: float = 1.0
    clamp_blending_at_pct: float = 1.0
    blend_min: float = 0.0
    blend_max: float = 1.0
    perlin_mode: Literal["masks", "latents", "matched_noise"] = "masks"
    perlin_strength: float = 0.75
    perlin_scale: float = 10.0
    rewind: bool = False
    rewind_min: float = 0.5
    rewind_max: float = 0.8

    def run(
        self,
        guider: Denoiser,
        sampling: Sampling,
        sigmas: Tensor,
        source: Latent,
        *,
        seed: int,
        mask: Tensor | None = None,
        mask_of: MaskOf = unchanged,
    ) -> Mixing:
        """The run from a source.

        Args:
            guider: The guided model.
            sampling: The model's process, levels and clock.
            sigmas: Noise levels [steps + 1].
            source: Clean latent in the network's scale.
            seed: Seed of all noise and of the Perlin masks.
            mask: 1 = redraw, 0 = keep the source at every step.
            mask_of: Another mask at each σ.

        Raises:
            ValueError: A name is unknown, or `Mixing` refuses a value.
        """
        perlin = self.sampler == "euler_perlin"
        row, process = SAMPLERS.lookup("euler" if perlin else self.sampler), sampling.process
        keep = None
        if mask is not None:
            guider = Inpaint(guider, source, torch.zeros_like(source), fit_mask(mask, source), process, mask_of)
            keep = guider.kept
        grid = Grid(sigmas, process, clock=sampling.clock)
        own = default_noise(row.noise, seed, grid, source)
        if self.sampler == "lcm":  # the stream continues after the levels' noise
            generator = generator_of(seed)
            randn(generator, (grid.n + 1, *source.shape), source.dtype)
            own = Gaussian(generator, source.shape, source.dtype)
        run, c = Run(guider, row, grid, own), self.weights(grid.n)
        settings = {
            "blend": named(BLENDS, self.blending_function, "blending function"),
            "of": "denoised" if self.sampler == "lcm" else "state",
            "rewind": (self.rewind_min, self.rewind_max) if self.rewind else None,
            "match_source": self.normalize_on_mean,
            "perlin": Perlin(self.perlin_mode, self.perlin_strength, self.perlin_scale, seed) if perlin else None,
            "keep": keep,
        }
        levels = Mixing(run, StreamLevels(seed, source.shape, []), c, **settings).levels
        return Mixing(run, StreamLevels(seed, source.shape, levels, source.dtype, source.device), c, **settings)

    def weights(self, n: int) -> list[float]:
        """The weight of the denoised latent in each of n steps."""
        start, stop = (math.floor(share * n) for share in (self.start_blending_at_pct, self.stop_blending_at_pct))
        return blending_weights(
            self.blending_schedule, n, alpha_1=self.alpha_1, start=start, stop=stop, clamp=self.clamp_blending_at_pct,
            least=self.blend_min, most=self.blend_max,
        )  # fmt: skip

    def open(self, asked: Asked) -> Begun:
        """A mixing run from the source; the run's noise is not used, since the levels have noise of their own."""
        run = self.run(
            asked.guider, asked.sampling, asked.sigmas, asked.source, seed=asked.stream.initial_seed(),
            mask=asked.mask, mask_of=asked.mask_of,
        )  # fmt: skip
        return Begun(run, run.start(asked.source))
