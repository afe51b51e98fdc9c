"""The nodes of ComfyUI-Iterative-Mixer as functions: its sampler, its batch unsampler and its two KSamplers.

They take and give latents in the VAE's scale. The parts that they are made of, for any sampler: `spatial.mixing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.process import Grid
from sigmafield.core.protocols import Denoiser
from sigmafield.core.registry import named
from sigmafield.noise.policy import default_noise
from sigmafield.noise.sources import Gaussian, Silent, generator_of, initial_noise, randn
from sigmafield.parameterization.latent_format import LatentFormat
from sigmafield.parameterization.prediction import Sampling
from sigmafield.recipes.ksampler import Sampled, ksampler_sigmas, sample_custom, window
from sigmafield.runs.blends import BLENDS, CURVES, blending_weights
from sigmafield.runs.mixing import Mixing, Perlin, StreamLevels, noised
from sigmafield.runs.run import Run, finish
from sigmafield.samplers import SAMPLERS
from sigmafield.spatial.inpaint import Inpaint, MaskOf, fit_mask, unchanged


def mixing_sampler(
    guider: Denoiser,
    sampling: Sampling,
    latents: LatentFormat,
    sigmas: Tensor,
    latent: Latent,
    *,
    seed: int,
    sampler: str = "euler",
    alpha_1: float = 2.4,
    blending_schedule: str = "cosine",
    blending_function: str = "addition",
    normalize_on_mean: bool = False,
    start_blending_at_pct: float = 0.0,
    stop_blending_at_pct: float = 1.0,
    clamp_blending_at_pct: float = 1.0,
    blend_min: float = 0.0,
    blend_max: float = 1.0,
    perlin_mode: Literal["masks", "latents", "matched_noise"] = "masks",
    perlin_strength: float = 0.75,
    perlin_scale: float = 10.0,
    rewind: bool = False,
    rewind_min: float = 0.5,
    rewind_max: float = 0.8,
    mask: Tensor | None = None,
    mask_of: MaskOf = unchanged,
) -> Sampled:
    """IterativeMixingSampler, with the node's names and defaults: a latent, in the VAE's scale, redrawn by mixing.

    sampler: any that keeps to the schedule; `euler_perlin` is euler with Perlin masks, and lcm blends before its noise.
    normalize_on_mean: bring each channel's mean and deviation to the source's. Noise is one stream of `seed`, as the
    reference draws it from the global generator; it takes a batch of one, here samples follow each other in the stream.
    The shares of start and stop are of all steps; a schedule that is cut has fewer. mask: 1 = redraw; what it keeps is
    the clean latent at every step, and Euler's slope is that of the latent so kept (the reference's is not, which
    differs for soft masks alone). Raises ValueError for unknown names and for what `Mixing` refuses.
    """
    euler_perlin = sampler == "euler_perlin"
    row, process = SAMPLERS.lookup("euler" if euler_perlin else sampler), sampling.process
    source = latents.to_network(latent) if latent.any() else latent
    if mask is not None:
        guider = Inpaint(guider, source, torch.zeros_like(source), fit_mask(mask, source), process, mask_of)
    grid = Grid(sigmas, process, clock=sampling.clock)
    own = default_noise(row.noise, seed, grid, source)
    if sampler == "lcm":  # the same stream goes on: no other numbers have been drawn from it
        generator = generator_of(seed)
        randn(generator, (grid.n + 1, *source.shape), source.dtype)
        own = Gaussian(generator, source.shape, source.dtype)
    run = Run(guider, row, grid, own)
    n = run.grid.n
    c = blending_weights(
        blending_schedule, n, alpha_1=alpha_1,
        start=math.floor(start_blending_at_pct * n), stop=math.floor(stop_blending_at_pct * n),
        clamp=clamp_blending_at_pct, least=blend_min, most=blend_max,
    )  # fmt: skip
    settings = {
        "blend": named(BLENDS, blending_function, "blending function"),
        "of": "denoised" if sampler == "lcm" else "state",
        "rewind": (rewind_min, rewind_max) if rewind else None,
        "match_source": normalize_on_mean,
        "perlin": Perlin(perlin_mode, perlin_strength, perlin_scale, seed) if euler_perlin else None,
    }
    levels = Mixing(run, StreamLevels(seed, source.shape, []), c, **settings).levels
    noise = StreamLevels(seed, source.shape, levels, source.dtype, source.device)
    end = finish(Mixing(run, noise, c, **settings), source)
    out = latents.to_vae(process.finish(run.end, end.x).float())
    return Sampled(out, out if end.pred is None else latents.to_vae(end.pred.x0.float()), end.nfe)


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
    """Batch Unsampler: the latent [1, C, *space] noised to every level of a schedule but 0, the least noisy first.

    normalize: take the mean of the first from all. Noise is one draw of a generator seeded with `seed`.
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
    """What the mixing KSampler gives, in the VAE's scale, latents of n + 1 steps: mixed ones, the first as it began;
    the n noised ones, the noisiest first; what each step's sampler gave before the blend, the first of zeros."""

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

    batch: n latents, the least noisy first, as `batch_unsample` gives them; n is also the number of steps. As the
    reference does: each y_i gets noise on top of the noise that is there, the first only that, and the step to σ = 0 is
    never taken: the result is grainy. renoise = False repairs it: no noise is added, and step i goes from σ_i to
    σ_{i+1}, down to 0.
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
    """Iterative Mixing KSampler: `batch_unsample` over all steps, `mixing_ksampler_advanced`, and its last latent."""
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
    """A run from a latent that is noisy already, in the VAE's scale: nothing is added, nothing is scaled at the end."""
    x, row, grid = (
        latents.to_network(latent),
        SAMPLERS.lookup(sampler),
        Grid(sigmas, sampling.process, clock=sampling.clock),
    )
    own = Silent() if row.noise == "none" else default_noise(row.noise, seed, grid, x)
    end = finish(Run(guider, row, grid, own), x)
    out = latents.to_vae(end.x)
    return Sampled(out, out, end.nfe)
