"""The nodes of ComfyUI-Iterative-Mixer."""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.iterative_mixing import batch_unsample, mixing_ksampler, mixing_ksampler_advanced
from sigmafield.comfyui.mixing_sampler import MixingSampler
from sigmafield.comfyui.names import SamplerName, SchedulerName, our_name
from sigmafield.comfyui.nodes.schedules import basic_scheduler
from sigmafield.comfyui.plots import line_plots, matrix
from sigmafield.comfyui.sampling import guided
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Conditioning, Image, Latent, Mask, Model, Sampler, Sigmas
from sigmafield.comfyui.widgets import Batch, Cfg, Drawn, Share, StepCount, StepIndex
from sigmafield.core.annotations import Range
from sigmafield.recipes.ksampler import source_of, window
from sigmafield.runs.blends import blending_weights
from sigmafield.runs.perlin_masks import masks

PACK = "custom_nodes.ComfyUI-Iterative-Mixer"
CATEGORY = "sampling/custom_sampling"
Curve = Literal["cosine", "linear", "logistic"]
Blend = Literal["addition", "norm_only", "slerp"]
Steepness = Annotated[float, Range(0.05, 100), Input(step=0.05)]
End = Annotated[float, Range(0), Input(step=0.01)]


@node("IterativeMixingSampler", f"{CATEGORY}/samplers", title="Iterative Mixing Sampler", module=PACK)
def iterative_mixing_sampler(
    model: Model,
    sampler: Literal["euler", "euler_perlin", "lcm", "dpmpp_2m"] = "euler",
    alpha_1: Steepness = 2.4,
    blending_schedule: Curve = "cosine",
    blending_function: Blend = "addition",
    normalize_on_mean: bool = False,
    start_blending_at_pct: End = 0.0,
    stop_blending_at_pct: End = 1.0,
    clamp_blending_at_pct: Share = 1.0,
    blend_min: float = 0.0,
    blend_max: float = 1.0,
    perlin_mode: Literal["masks", "latents", "matched_noise"] = "masks",
    perlin_strength: Annotated[float, Input(step=0.001)] = 0.75,
    perlin_scale: Annotated[float, Range(0.1, 400), Input(step=0.1)] = 10.0,
    rewind: bool = False,
    rewind_min: Annotated[float, Range(0, 0.99), Input(step=0.01)] = 0.5,
    rewind_max: Annotated[float, Range(0.01, 0.99), Input(step=0.01)] = 0.8,
) -> Sampler:
    """Redraws a latent by mixing every step with the noised source; run it without added noise.

    Args:
        model: The model; its levels follow from the run.
        sampler: The sampler.
        alpha_1: Steepness of the blending schedule.
        blending_schedule: The curve of the weights.
        blending_function: How two latents are blended.
        normalize_on_mean: Whether the result gets the mean and deviation of the source.
        start_blending_at_pct: Share of the steps at which the blending schedule starts.
        stop_blending_at_pct: Share of the steps at which it ends.
        clamp_blending_at_pct: Share of the steps from which on nothing is blended.
        blend_min: Lowest weight of the denoised latent.
        blend_max: Highest weight of the denoised latent.
        perlin_mode: What Perlin masks do.
        perlin_strength: How strongly they act.
        perlin_scale: Latent positions per lattice cell of the masks.
        rewind: Whether the run starts again with its result.
        rewind_min: Share of the remaining steps that each pass skips.
        rewind_max: Share of the steps after which no pass starts.
    """
    return MixingSampler(
        sampler=sampler, alpha_1=alpha_1, blending_schedule=blending_schedule, blending_function=blending_function,
        normalize_on_mean=normalize_on_mean, start_blending_at_pct=start_blending_at_pct,
        stop_blending_at_pct=stop_blending_at_pct, clamp_blending_at_pct=clamp_blending_at_pct, blend_min=blend_min,
        blend_max=blend_max, perlin_mode=perlin_mode, perlin_strength=perlin_strength, perlin_scale=perlin_scale,
        rewind=rewind, rewind_min=rewind_min, rewind_max=rewind_max,
    )  # fmt: skip


@node("IterativeMixingScheduler", f"{CATEGORY}/schedulers", title="Iterative Mixing Scheduler", module=PACK)
def iterative_mixing_scheduler(
    model: Model, scheduler: SchedulerName, steps: StepCount = 20, denoise: Share = 1.0
) -> Sigmas:
    """A schedule over the levels of a model.

    Args:
        model: The model.
        scheduler: The schedule.
        steps: Number of steps.
        denoise: Share of the schedule that is used.
    """
    return basic_scheduler(model, scheduler, steps, denoise)


@node(
    "IterativeMixingSchedulerAdvanced", f"{CATEGORY}/schedulers", title="Iterative Mixing Scheduler Advanced",
    module=PACK,
)  # fmt: skip
def iterative_mixing_scheduler_advanced(
    model: Model,
    scheduler: SchedulerName,
    steps: StepCount = 20,
    denoise: Share = 1.0,
    start_at_step: StepIndex = 0,
    end_at_step: StepIndex = 10000,
) -> Sigmas:
    """A part of a schedule over the levels of a model.

    Args:
        model: The model.
        scheduler: The schedule.
        steps: Number of steps of the whole schedule.
        denoise: Share of the schedule that is used.
        start_at_step: The first step.
        end_at_step: The step before which it ends.
    """
    return window(basic_scheduler(model, scheduler, steps, denoise), start_at_step, end_at_step)


@node("MixingMaskGenerator", "mask", title="Mixing Mask Generator", module=PACK)
def mixing_mask_generator(
    mask_type: Literal["perlin", "random"] = "perlin",
    perlin_scale: Annotated[float, Range(0.1, 400), Input(step=0.1)] = 10.0,
    seed: Drawn = 0,
    width: Annotated[int, Range(16, 8192), Input(step=8)] = 512,
    height: Annotated[int, Range(16, 8192), Input(step=8)] = 512,
    batch_size: Batch = 1,
) -> Mask:
    """Masks of Perlin noise, or of normal numbers, at the size of the latent.

    Args:
        mask_type: Kind of the masks.
        perlin_scale: Latent positions per lattice cell.
        seed: Seed of the masks.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        batch_size: Number of masks.
    """
    return masks(mask_type, batch_size, width, height, seed, perlin_scale)[:, 0]


@node("Batch Unsampler", "sampling", module=PACK, outputs=("latent_batch",))
def batch_unsampler(
    model: Model,
    sampler_name: SamplerName,
    scheduler: SchedulerName,
    steps: StepIndex = 10000,
    start_at_step: StepIndex = 0,
    end_at_step: StepIndex = 10000,
    *,
    latent_image: Latent,
    normalize: bool = False,
    seed: Annotated[int, Range(0, 2**64 - 1), Input(optional=True)] = 0,
) -> Latent:
    """Noises a latent to every level of a schedule except 0, the least noisy first.

    Args:
        model: The model.
        sampler_name: The sampler, which some schedules depend on.
        scheduler: The schedule.
        steps: Number of steps.
        start_at_step: The first level.
        end_at_step: The level before which it ends.
        latent_image: The latent.
        normalize: Whether the mean of the noisiest latent is subtracted.
        seed: Seed of the noise, which the pack does not have.
    """
    network = model.network
    made = batch_unsample(
        network.sampling, network.latent, latent_image["samples"], seed=seed, sampler=our_name(sampler_name),
        scheduler=scheduler, steps=steps, start_step=start_at_step, end_step=end_at_step, normalize=normalize,
    )  # fmt: skip
    return {"samples": made}


@node("Iterative Mixing KSampler", "sampling", module=PACK)
def iterative_mixing_ksampler(
    model: Model,
    seed: Drawn = 0,
    steps: StepCount = 40,
    cfg: Cfg = 8.0,
    *,
    sampler_name: SamplerName,
    scheduler: SchedulerName,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    denoise: Share = 1.0,
    alpha_1: Steepness = 2.4,
    blending_schedule: Curve = "cosine",
    blending_function: Blend = "addition",
    normalize_on_mean: bool = False,
) -> Latent:
    """Unsamples a latent and redraws it by iterative mixing.

    Args:
        model: The model.
        seed: Seed of the noise.
        steps: Number of steps.
        cfg: Scale of classifier-free guidance.
        sampler_name: The sampler.
        scheduler: The schedule.
        positive: What to draw.
        negative: What to avoid.
        latent_image: The latent to redraw.
        denoise: Share of the schedule that is used.
        alpha_1: Steepness of the blending schedule.
        blending_schedule: The curve of the weights.
        blending_function: How two latents are blended.
        normalize_on_mean: Whether the mean of the noisiest latent is subtracted.
    """
    network, x = model.network, latent_image["samples"].to(model.network.device)
    guider = guided(model, positive, negative, cfg).denoiser(source_of(x, network.latent), None, seed)
    out = mixing_ksampler(
        guider, network.sampling, network.latent, x, seed=seed, steps=steps, sampler=our_name(sampler_name),
        scheduler=scheduler, denoise=denoise, alpha_1=alpha_1, blending_schedule=blending_schedule,
        blending_function=blending_function, normalize_on_mean=normalize_on_mean,
    )  # fmt: skip
    return {"samples": out.samples.cpu()}


@node(
    "Iterative Mixing KSampler Advanced", "sampling", module=PACK,
    outputs=("mixed_latents", "noised_latents", "intermediate_latents", "plot_image"),
)  # fmt: skip
def iterative_mixing_ksampler_advanced(
    model: Model,
    seed: Drawn = 0,
    cfg: Cfg = 8.0,
    *,
    sampler_name: SamplerName,
    scheduler: SchedulerName,
    positive: Conditioning,
    negative: Conditioning,
    latent_image_batch: Latent,
    denoise: Share = 1.0,
    alpha_1: Steepness = 2.4,
    reverse_input_batch: bool = True,
    blending_schedule: Curve = "cosine",
    stop_blending_at_pct: End = 1.0,
    clamp_blending_at_pct: Share = 1.0,
    blending_function: Blend = "addition",
) -> tuple[Latent, Latent, Latent, Image]:
    """Redraws an unsampled batch by iterative mixing: a step and a blend for each of its latents.

    Args:
        model: The model.
        seed: Seed of the noise.
        cfg: Scale of classifier-free guidance.
        sampler_name: The sampler.
        scheduler: The schedule.
        positive: What to draw.
        negative: What to avoid.
        latent_image_batch: The batch, the least noisy first, as Batch Unsampler gives it.
        denoise: Share of the schedule that is used.
        alpha_1: Steepness of the blending schedule.
        reverse_input_batch: Ignored, as in the pack: the batch is always reversed.
        blending_schedule: The curve of the weights.
        stop_blending_at_pct: Share of the steps at which the blending schedule ends.
        clamp_blending_at_pct: Share of the steps from which on nothing is blended.
        blending_function: How two latents are blended.
    """
    network, batch = model.network, latent_image_batch["samples"].to(model.network.device)
    guider = guided(model, positive, negative, cfg).denoiser(source_of(batch[:1], network.latent), None, seed)
    made = mixing_ksampler_advanced(
        guider, network.sampling, network.latent, batch, seed=seed, sampler=our_name(sampler_name),
        scheduler=scheduler, denoise=denoise, alpha_1=alpha_1, blending_schedule=blending_schedule,
        stop_blending_at_pct=stop_blending_at_pct, clamp_blending_at_pct=clamp_blending_at_pct,
        blending_function=blending_function, batch_index=latent_image_batch.get("batch_index"),
    )  # fmt: skip
    n = len(batch)
    weights = blending_weights(
        blending_schedule, n, alpha_1=alpha_1, stop=int(stop_blending_at_pct * n), clamp=clamp_blending_at_pct
    )
    latents: list[Latent] = [{"samples": x.cpu()} for x in (made.mixed, made.noised, made.intermediates)]
    return latents[0], latents[1], latents[2], line_plots([("blending weights", [float(w) for w in weights], None)])


@node("Latent Batch Statistics Plot", "latent/batch", module=PACK)
def latent_batch_statistics_plot(batch: Latent) -> Image:
    """Plots the Shapiro–Wilk p-value, the mean and the deviation of each latent of a batch.

    Args:
        batch: The latents.
    """
    from scipy.stats import shapiro  # slow to import

    flat = batch["samples"].double().flatten(1)
    p_values = [float(shapiro(row.numpy()).pvalue) for row in flat]
    rows = [
        ("Shapiro-Wilk p", p_values, 0.05),
        ("mean", flat.mean(1).tolist(), None),
        ("standard deviation", flat.std(1, correction=0).tolist(), None),
    ]
    return line_plots(rows)


@node("Latent Batch Comparison Plot", "latent/batch", module=PACK)
def latent_batch_comparison_plot(latent_batch_1: Latent, latent_batch_2: Latent) -> Image:
    """Draws the cosine similarity of every latent of a batch with every one of another as a matrix.

    Args:
        latent_batch_1: The latents of the rows.
        latent_batch_2: The latents of the columns.
    """
    rows, columns = (latents["samples"].double().flatten(1) for latents in (latent_batch_1, latent_batch_2))
    return matrix(torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(columns, dim=1).T)
