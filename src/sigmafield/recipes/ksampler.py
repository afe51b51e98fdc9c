"""ComfyUI's KSampler as a function: its schedule, noise, seed and latent rules around one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.grid import Grid
from sigmafield.core.linear import filled
from sigmafield.core.protocols import Denoiser, State, Steps
from sigmafield.noise.policy import default_noise
from sigmafield.noise.sources import Gaussian, following, generator_of, initial_noise, randn
from sigmafield.noise.spectrum import Filter, Shaped, white
from sigmafield.parameterization.latent_format import LatentFormat
from sigmafield.parameterization.prediction import Sampling
from sigmafield.parameterization.timesteps import Levels
from sigmafield.runs.run import Run, finish
from sigmafield.samplers import SAMPLERS
from sigmafield.schedules import SCHEDULES
from sigmafield.spatial.field_denoiser import Rule, Served, by_level
from sigmafield.spatial.inpaint import Inpaint, MaskOf, fit_mask, unchanged

DROPS_PENULTIMATE = ("dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2")
"""Samplers whose schedule is made with a step more and loses its last level above 0."""

MOST_STEPS = 1_000_000
"""Steps of the whole schedule of which `denoise` takes the last ones: 10000 steps at a denoise of 0.01."""


class Opened(NamedTuple):
    """A run, the state before its first step, and what keeps a part of the latent at the source, if a mask does."""

    run: Run
    start: State
    kept: Inpaint | None


@dataclass(frozen=True)
class Sampled:
    """What a run gives, in the VAE's scale: samples, and the clean latent that its last evaluation saw."""

    samples: Latent
    denoised: Latent
    nfe: int = 0


R = TypeVar("R", bound=Steps)


@dataclass(frozen=True)
class Framed(Generic[R]):
    """A run between latents in the VAE's scale: iterate `run` from `start`; `sampled` of its last state is the result.

    Args:
        latents: The model's latent format.
        run: What is iterated.
        start: The state before its first step.
    """

    latents: LatentFormat
    run: R
    start: State

    def sampled(self, end: State) -> Sampled:
        """What the last state gives."""
        out = self.latents.to_vae(self.run.result(end).float())
        return Sampled(out, out if end.pred is None else self.latents.to_vae(end.pred.x0.float()), end.nfe)


def whole_steps(steps: int, denoise: float) -> int:
    """⌊steps/denoise⌋: the steps of the schedule whose last `steps` are run.

    Args:
        steps: Steps that are run.
        denoise: Share of the schedule that they are; above 0.

    Raises:
        ValueError: The schedule would have more than `MOST_STEPS`.
    """
    if steps > denoise * MOST_STEPS:
        raise ValueError(
            f"denoise must be at least {steps / MOST_STEPS:g} for {steps} steps: they are the last ones of "
            f"steps/denoise, which may be {MOST_STEPS}; got {denoise:g}"
        )
    return int(steps / denoise)


def ksampler_sigmas(
    levels: Levels,
    sampler: str,
    schedule: str,
    steps: int,
    denoise: float | None = None,
    params: Mapping[str, Any] | None = None,
) -> Tensor:
    """KSampler's schedule: the last steps + 1 levels of one with ⌊steps/denoise⌋ steps; none for denoise ≤ 0.

    For `DROPS_PENULTIMATE` the schedule has a step more, and its last level above 0 is left out. params: the
    schedule's own. `steps` network evaluations are made whatever `denoise` is. Raises ValueError as `whole_steps`.
    """

    def whole(n: int) -> Tensor:
        if sampler not in DROPS_PENULTIMATE:
            return SCHEDULES.lookup(schedule)(n, levels, **(params or {}))
        sigmas = SCHEDULES.lookup(schedule)(n + 1, levels, **(params or {}))
        return torch.cat([sigmas[:-2], sigmas[-1:]])

    SAMPLERS.lookup(sampler)
    if denoise is None or denoise > 0.9999:
        return whole(steps)
    return whole(whole_steps(steps, denoise))[-(steps + 1) :] if denoise > 0 else torch.empty(0, dtype=torch.float64)


def window(
    sigmas: Tensor, start_step: int | None = None, last_step: int | None = None, force_full_denoise: bool = False
) -> Tensor:
    """The levels from start_step to last_step; with force_full_denoise a run that ends early ends at 0.

    Empty where start_step is at or after the end: then nothing is sampled.
    """
    if last_step is not None and last_step < len(sigmas) - 1:
        sigmas = sigmas[: last_step + 1].clone()
        if force_full_denoise:
            sigmas[-1] = 0
    if start_step is not None:
        sigmas = sigmas[start_step:] if start_step < len(sigmas) - 1 else sigmas[:0]
    return sigmas


def repaired(latent: Latent, latents: LatentFormat) -> Float[Tensor, "batch given *axes"]:
    """A latent with as many axes as the network's, where an image is a video of one frame; an empty one is also given
    its number of channels."""
    if not latent.any() and latent.shape[1] != latents.channels:
        latent = filled(latent, latents.channels, axis=1)
    if latents.axes == 2 and latent.ndim == 5 and latent.shape[2] == 1:
        return latent[:, :, 0]
    return latent[:, :, None] if latents.axes == 3 and latent.ndim == 4 else latent


def source_of(latent: Latent, latents: LatentFormat) -> Latent:
    """A latent of the VAE's scale in the network's; an empty one has no shift, as in ComfyUI."""
    return latents.to_network(latent) if latent.any() else latent


def open_run(
    guider: Denoiser,
    sampling: Sampling,
    sampler: str,
    sigmas: Tensor,
    source: Latent,
    noise: Latent,
    seed: int | torch.Generator,
    *,
    mask: Tensor | None = None,
    mask_of: MaskOf = unchanged,
    random_inpaint: bool = False,
    rule: Rule = by_level,
    spectrum: Filter = white,
    **params: Any,
) -> Opened:
    """A run from a latent in the network's scale, and its start: iterate them, or `finish`.

    noise: the initial noise; seed: of the sampler's own, or the generator that drew the noise, which churn goes on
    with; mask, mask_of: see `Inpaint`; random_inpaint: other noise for what the mask keeps, from seed + 1 (`ddim`);
    rule: what the network is asked where sigmas is a σ-field, see `Served`; spectrum: filter of the sampler's own
    noise; params: the sampler's.
    """
    process, row, grid = (
        sampling.process,
        SAMPLERS.lookup(sampler),
        Grid(sigmas, sampling.process, clock=sampling.clock),
    )
    x = process.start(grid.sigmas[0], noise, source)
    number = seed.initial_seed() if isinstance(seed, torch.Generator) else seed
    inpaint = None
    if mask is not None:
        kept = randn(following(number), noise.shape).to(noise) if random_inpaint else noise
        guider = inpaint = Inpaint(guider, source, kept, fit_mask(mask, source), process, mask_of)
    if grid.is_field:
        guider = Served(guider, source, noise, process, rule)
    goes_on = row.noise == "churn" and isinstance(seed, torch.Generator) and x.device.type == "cpu"
    own = Gaussian(seed, x.shape, x.dtype) if goes_on else default_noise(row.noise, number, grid, x)
    run = Run(guider, row, grid, own if spectrum is white else Shaped(own, spectrum), params)
    return Opened(run, run.start(x), inpaint)


def sample_custom(
    guider: Denoiser,
    sampling: Sampling,
    latents: LatentFormat,
    sampler: str,
    sigmas: Tensor,
    latent: Latent,
    noise: Latent,
    seed: int | torch.Generator,
    **options: Any,
) -> Sampled:
    """A run from a latent in the VAE's scale, as SamplerCustomAdvanced makes it; `options` are those of `open_run`.

    Without levels the latent is returned as it is.
    """
    if not len(sigmas):
        return Sampled(latent, latent)
    run, start, _ = open_run(guider, sampling, sampler, sigmas, source_of(latent, latents), noise, seed, **options)
    return Framed(latents, run, start).sampled(finish(run, start))


def ksampler(
    guider: Denoiser,
    sampling: Sampling,
    latents: LatentFormat,
    latent: Latent,
    *,
    seed: int = 0,
    steps: int = 20,
    sampler: str = "euler",
    schedule: str = "simple",
    denoise: float | None = None,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
    disable_noise: bool = False,
    batch_index: Sequence[int] | None = None,
    mask: Tensor | None = None,
    mask_of: MaskOf = unchanged,
    params: Mapping[str, Any] | None = None,
    schedule_params: Mapping[str, Any] | None = None,
) -> Sampled:
    """KSampler and KSamplerAdvanced: noise from the seed, schedule from names, a latent in the VAE's scale.

    guider: `Guider(model, positive, negative, cfg)` or another; latent: empty (zeros), or an encoded image.
    return_with_leftover_noise of the Advanced node is `not force_full_denoise`; its add_noise, `not disable_noise`.
    batch_index: which draw of the noise each sample is. mask: 1 = denoise. params, schedule_params: the sampler's and
    the schedule's, which the nodes leave at their defaults. Raises ValueError for unknown names and bad values.
    """
    SAMPLERS.lookup(sampler).check(params or {})
    latent = repaired(latent, latents)
    generator = generator_of(seed)
    if disable_noise:
        noise = torch.zeros_like(latent, device="cpu")
    else:
        noise = initial_noise(generator, latent.shape, batch_index, latent.dtype)
    sigmas = ksampler_sigmas(sampling.levels, sampler, schedule, steps, denoise, schedule_params)
    sigmas = window(sigmas, start_step, last_step, force_full_denoise)
    return sample_custom(
        guider, sampling, latents, sampler, sigmas, latent, noise.to(latent.device), generator,
        mask=mask, mask_of=mask_of, random_inpaint=sampler == "ddim", **(params or {}),
    )  # fmt: skip
