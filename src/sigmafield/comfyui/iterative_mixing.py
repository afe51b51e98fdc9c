"""The nodes of ComfyUI-Iterative-Mixer as functions: its sampler, its batch unsampler and its two KSamplers.

They take and return latents in the VAE's scale. `sigmafield.runs.mixing` has their parts, for any sampler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sigmafield.comfyui.mixing_sampler import MixingSampler
from sigmafield.core.arrays import Latent
from sigmafield.core.grid import Grid
from sigmafield.core.protocols import Denoiser
from sigmafield.core.registry import named
from sigmafield.noise.policy import default_noise
from sigmafield.noise.sources import Silent, initial_noise, randn
from sigmafield.parameterization.latent_format import LatentFormat
from sigmafield.parameterization.prediction import Sampling
from sigmafield.recipes.ksampler import Framed, Sampled, ksampler_sigmas, sample_custom, source_of, window
from sigmafield.runs.blends import BLENDS, CURVES, blending_weights
from sigmafield.runs.level_noise import noised
from sigmafield.runs.run import Run, finish
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.inpaint import MaskOf, unchanged


def mixing_sampler(
    guider: Denoiser,
    sampling: Sampling,
    latents: LatentFormat,
    sigmas: Tensor,
    latent: Latent,
    settings: MixingSampler = MixingSampler(),
    *,
    seed: int,
    mask: Tensor | None = None,
    mask_of: MaskOf = unchanged,
) -> Sampled:
    """IterativeMixingSampler: redraws a latent by iterative mixing.

    Args:
        guider: The guided model.
        sampling: The model's process, levels and clock.
        latents: The model's latent format.
        sigmas: Noise levels [steps + 1].
        latent: Clean latent in the VAE's scale.
        settings: How it is mixed.
        seed: Seed of all noise and of the Perlin masks.
        mask: 1 = redraw, 0 = keep the clean latent at every step.
        mask_of: Another mask at each σ.

    Raises:
        ValueError: A name is unknown, or `Mixing` refuses a value.
    """
    source = source_of(latent, latents)
    run = settings.run(guider, sampling, sigmas, source, seed=seed, mask=mask, mask_of=mask_of)
    start = run.start(source)
    return Framed(latents, run, start).sampled(finish(run, start))


def batch_unsample(
    sampling: Sampling,
    latents: LatentFormat,
    latent: Tensor,
    *,
    seed: int,
    sampler: str = "euler",
    scheduler: str = "normal",
    steps: int = 10000,
    start_step: int = 0,
    end_step: int = 10000,
    normalize: bool = False,
) -> Tensor:
    """Batch Unsampler: the latent noised to every level of a schedule except 0, the least noisy first.

    Args:
        sampling: The model's process and levels.
        latents: The model's latent format.
        latent: Clean latent [1, C, *space] in the VAE's scale.
        seed: Seed of the noise, which is one draw for all levels.
        sampler: The sampler that the schedule is made for.
        scheduler: Name of the schedule.
        steps: Number of steps of the schedule.
        start_step: First step of the schedule that is used.
        end_step: Step at which it ends.
        normalize: Whether the mean of the first latent is subtracted from all.
    """
    if len(latent) != 1:
        raise ValueError(f"unsampling takes a batch of 1, which becomes one of all levels; got {len(latent)}")
    sigmas = ksampler_sigmas(sampling.levels, sampler, scheduler, steps)[start_step : min(steps, end_step)].flip(0)
    noise, source = randn(seed, (len(sigmas), *latent.shape[1:])), latents.to_network(latent)
    parts = [noised(source, s.double().cpu(), xi[None].to(source), sampling.process) for s, xi in zip(sigmas, noise)]
    out = latents.to_vae(torch.cat(parts)) if parts else latent[:0]
    return out - out[0].mean() if normalize and len(out) else out


@dataclass(frozen=True)
class Mixed:
    """The results of the mixing KSampler, in the VAE's scale.

    Args:
        mixed: n + 1 mixed latents, from the noisiest of the batch on.
        noised: The n noised latents, the noisiest first.
        intermediates: The latent of each step before the blend, n + 1 with zeros as the first.
        nfe: Number of network evaluations.
    """

    mixed: Tensor
    noised: Tensor
    intermediates: Tensor
    nfe: int


def mixing_ksampler_advanced(
    guider: Denoiser,
    sampling: Sampling,
    latents: LatentFormat,
    batch: Latent,
    *,
    seed: int,
    sampler: str = "euler",
    scheduler: str = "normal",
    denoise: float = 1.0,
    alpha_1: float = 2.4,
    blending_schedule: str = "cosine",
    start_blending_at_pct: float = 0.0,
    stop_blending_at_pct: float = 1.0,
    clamp_blending_at_pct: float = 1.0,
    blending_function: str = "addition",
    batch_index: Sequence[int] | None = None,
    renoise: bool = True,
) -> Mixed:
    """Iterative Mixing KSampler Advanced: for every latent of an unsampled batch one step of a KSampler, and a blend.

        y_i = KSampler(step i − 1 → i, adds noise r_i)(out_i),   out_{i+1} = blend(z_i, y_i, c_i),   out_0 = z_0

    As in the reference, noise is added to each y_i, which already has noise, the first y has nothing but that, and the
    step to σ = 0 is never taken, so that the result is grainy. Without `renoise` no noise is added, and step i goes
    from σ_i to σ_{i+1}, down to 0.

    Args:
        guider: The guided model.
        sampling: The model's process, levels and clock.
        latents: The model's latent format.
        batch: n latents, the least noisy first, as `batch_unsample` gives them; n is also the number of steps.
        seed: Seed of the noise.
        sampler: Name of the sampler.
        scheduler: Name of the schedule.
        denoise: Share of the schedule that is used.
        alpha_1: Steepness of the blending schedule.
        blending_schedule: A curve of `CURVES`.
        start_blending_at_pct: Share of the steps at which the blending schedule starts.
        stop_blending_at_pct: Share of the steps at which it reaches its end.
        clamp_blending_at_pct: Share of the steps from which on nothing is blended.
        blending_function: A function of `BLENDS`.
        batch_index: Which draw of the noise each latent gets.
        renoise: Whether noise is added in every step, as in the reference.
    """
    n, blend = len(batch), named(BLENDS, blending_function, "blending function")
    named(CURVES, blending_schedule, "blending schedule")
    c = blending_weights(
        blending_schedule, n, alpha_1=alpha_1, start=math.floor(start_blending_at_pct * n),
        stop=math.floor(stop_blending_at_pct * n), clamp=clamp_blending_at_pct,
    )  # fmt: skip
    noise = initial_noise(seed, batch.shape, batch_index).to(batch)
    z, sigmas = batch.flip(0), ksampler_sigmas(sampling.levels, sampler, scheduler, n, denoise)
    mixed, given, nfe = [z[:1]], [torch.zeros_like(z[:1])], 0
    for i in range(n):
        if renoise:
            part = window(sigmas, i - 1, i)
            step = sample_custom(guider, sampling, latents, sampler, part, mixed[-1], noise[i : i + 1], seed)
        else:
            step = _one_step(guider, sampling, latents, sampler, sigmas[i : i + 2], mixed[-1], seed)
        nfe += step.nfe
        given.append(step.samples)
        mixed.append(blend(z[i : i + 1], step.samples, c[i]))
    return Mixed(torch.cat(mixed), z, torch.cat(given), nfe)


def mixing_ksampler(
    guider: Denoiser,
    sampling: Sampling,
    latents: LatentFormat,
    latent: Latent,
    *,
    seed: int,
    steps: int = 40,
    sampler: str = "euler",
    scheduler: str = "normal",
    denoise: float = 1.0,
    alpha_1: float = 2.4,
    blending_schedule: str = "cosine",
    blending_function: str = "addition",
    normalize_on_mean: bool = False,
    renoise: bool = True,
) -> Sampled:
    """Iterative Mixing KSampler: `batch_unsample`, then `mixing_ksampler_advanced`, of which the last latent is given.

    The arguments are those of these two functions.
    """
    batch = batch_unsample(
        sampling, latents, latent, seed=seed, sampler=sampler, scheduler=scheduler, steps=steps,
        end_step=steps, normalize=normalize_on_mean,
    )  # fmt: skip
    out = mixing_ksampler_advanced(
        guider, sampling, latents, batch, seed=seed, sampler=sampler, scheduler=scheduler, denoise=denoise,
        alpha_1=alpha_1, blending_schedule=blending_schedule, blending_function=blending_function, renoise=renoise,
    )  # fmt: skip
    return Sampled(out.mixed[-1:], out.intermediates[-1:], out.nfe)


def _one_step(
    guider: Denoiser,
    sampling: Sampling,
    latents: LatentFormat,
    sampler: str,
    sigmas: Tensor,
    latent: Latent,
    seed: int,
) -> Sampled:
    """A run from a noisy latent in the VAE's scale: no noise is added before it, and its end is not rescaled."""
    x, row = latents.to_network(latent), SAMPLERS.lookup(sampler)
    grid = Grid(sigmas, sampling.process, clock=sampling.clock)
    own = Silent() if row.noise == "none" else default_noise(row.noise, seed, grid, x)
    end = finish(Run(guider, row, grid, own), x)
    out = latents.to_vae(end.x)
    return Sampled(out, out, end.nfe)
