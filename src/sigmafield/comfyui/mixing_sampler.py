"""The sampler of IterativeMixingSampler."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from sigmafield.comfyui.iterative_mixing import mixing_run
from sigmafield.comfyui.sampling import Asked, Begun


@dataclass(frozen=True)
class MixingSampler:
    """Iterative mixing of a latent with itself, noised; the fields are arguments of `mixing_sampler`."""

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

    def open(self, asked: Asked) -> Begun:
        """A mixing run from the source; the run's noise is not used, since the levels have noise of their own."""
        run = mixing_run(
            asked.guider, asked.sampling, asked.sigmas, asked.source, seed=asked.stream.initial_seed(),
            mask=asked.mask, mask_of=asked.mask_of, **{each.name: getattr(self, each.name) for each in fields(self)},
        )  # fmt: skip
        return Begun(run, run.start(asked.source))
