"""KSampler and KSamplerAdvanced."""

from __future__ import annotations

from typing import Literal

from sigmafield.comfyui.context import Context, Stepped
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.names import SamplerName, SchedulerName, our_name
from sigmafield.comfyui.sampling import NamedSampler, NoNoise, Seeded, guided, sampled
from sigmafield.comfyui.values import Conditioning, Latent, Model
from sigmafield.comfyui.widgets import Cfg, Drawn, Share, StepCount, StepIndex
from sigmafield.core.registry import Spec
from sigmafield.recipes.ksampler import ksampler_sigmas, window

Switch = Literal["enable", "disable"]


@node("KSampler", "sampling")
def ksampler(
    model: Model,
    seed: Drawn = 0,
    steps: StepCount = 20,
    cfg: Cfg = 8.0,
    *,
    sampler_name: SamplerName,
    scheduler: SchedulerName,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    denoise: Share = 1.0,
    context: Context = Context(),
) -> Stepped[Latent]:
    """Denoises a latent.

    Args:
        model: The model.
        seed: Seed of the noise.
        steps: Number of steps.
        cfg: Scale of classifier-free guidance; 1 leaves the negative prompt out.
        sampler_name: The sampler.
        scheduler: The schedule of noise levels.
        positive: What to draw.
        negative: What to avoid.
        latent_image: Where to begin: an empty latent, or that of an image.
        denoise: Share of the schedule that is used; below 1 the latent is kept in part.
        context: The step to go on from.
    """
    sampler = our_name(sampler_name)
    sigmas = ksampler_sigmas(model.network.sampling.levels, sampler, scheduler, steps, denoise)
    guider = guided(model, positive, negative, cfg)
    out, _ = yield from sampled(guider, Seeded(seed), NamedSampler(Spec(sampler)), sigmas, latent_image, context)
    return out


@node("KSamplerAdvanced", "sampling", title="KSampler (Advanced)")
def ksampler_advanced(
    model: Model,
    add_noise: Switch,
    noise_seed: Drawn = 0,
    steps: StepCount = 20,
    cfg: Cfg = 8.0,
    *,
    sampler_name: SamplerName,
    scheduler: SchedulerName,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    start_at_step: StepIndex = 0,
    end_at_step: StepIndex = 10000,
    return_with_leftover_noise: Literal["disable", "enable"],
    context: Context = Context(),
) -> Stepped[Latent]:
    """Denoises a latent over a part of a schedule.

    Args:
        model: The model.
        add_noise: Whether noise is added before the first step.
        noise_seed: Seed of the noise.
        steps: Number of steps of the whole schedule.
        cfg: Scale of classifier-free guidance; 1 leaves the negative prompt out.
        sampler_name: The sampler.
        scheduler: The schedule of noise levels.
        positive: What to draw.
        negative: What to avoid.
        latent_image: Where to begin.
        start_at_step: The first step that is taken.
        end_at_step: The step before which the run ends.
        return_with_leftover_noise: Whether a run that ends early keeps its noise, for another node to go on from.
        context: The step to go on from.
    """
    name = our_name(sampler_name)
    sigmas = ksampler_sigmas(model.network.sampling.levels, name, scheduler, steps)
    sigmas = window(sigmas, start_at_step, end_at_step, return_with_leftover_noise == "disable")
    noise = Seeded(noise_seed) if add_noise == "enable" else NoNoise(noise_seed)
    guider, sampler = guided(model, positive, negative, cfg), NamedSampler(Spec(name))
    out, _ = yield from sampled(guider, noise, sampler, sigmas, latent_image, context)
    return out
