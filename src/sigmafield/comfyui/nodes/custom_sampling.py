"""Nodes that put a run together from its parts: guider, noise, sampler and levels."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch

from sigmafield.comfyui.context import Context, Stepped
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sampling import GuiderValue, NoNoise, Seeded, guided, sampled
from sigmafield.comfyui.values import Conditioning, Guider, Latent, Model, Noise, Sampler, Sigmas
from sigmafield.comfyui.widgets import Cfg, Drawn, Scale
from sigmafield.core.linear import lincomb
from sigmafield.guidance.guider import DualGuider
from sigmafield.guidance.guider import PerpNegGuider as PerpNegDenoiser
from sigmafield.recipes.ksampler import source_of


@node(
    "SamplerCustom",
    "sampling/custom_sampling",
    outputs=(
        "output",
        "denoised_output",
    ),
)
def sampler_custom(
    model: Model,
    add_noise: bool = True,
    noise_seed: Drawn = 0,
    cfg: Cfg = 8.0,
    *,
    positive: Conditioning,
    negative: Conditioning,
    sampler: Sampler,
    sigmas: Sigmas,
    latent_image: Latent,
    context: Context = Context(),
) -> Stepped[tuple[Latent, Latent]]:
    """Denoises a latent with a sampler and levels of one's own.

    Args:
        model: The model.
        add_noise: Whether noise is added before the first step.
        noise_seed: Seed of the noise.
        cfg: Scale of classifier-free guidance; 1 leaves the negative prompt out.
        positive: What to draw.
        negative: What to avoid.
        sampler: The sampler.
        sigmas: The noise levels.
        latent_image: Where to begin.
        context: The step to go on from.
    """
    noise = Seeded(noise_seed) if add_noise else NoNoise(noise_seed)
    return (yield from sampled(guided(model, positive, negative, cfg), noise, sampler, sigmas, latent_image, context))


@node(
    "SamplerCustomAdvanced",
    "sampling/custom_sampling",
    outputs=(
        "output",
        "denoised_output",
    ),
)
def sampler_custom_advanced(
    noise: Noise, guider: Guider, sampler: Sampler, sigmas: Sigmas, latent_image: Latent, context: Context = Context()
) -> Stepped[tuple[Latent, Latent]]:
    """Denoises a latent with a guider, a noise, a sampler and levels of one's own.

    Args:
        noise: The noise.
        guider: Model, prompts and guidance.
        sampler: The sampler.
        sigmas: The noise levels.
        latent_image: Where to begin.
        context: The step to go on from.
    """
    return (yield from sampled(guider, noise, sampler, sigmas, latent_image, context))


@node("RandomNoise", "sampling/custom_sampling/noise")
def random_noise(noise_seed: Drawn = 0) -> Noise:
    """Noise from a seed.

    Args:
        noise_seed: Seed of the noise.
    """
    return Seeded(noise_seed)


@node("DisableNoise", "sampling/custom_sampling/noise")
def disable_noise() -> Noise:
    """No noise."""
    return NoNoise()


@node("AddNoise", "_for_testing/custom_sampling/noise", experimental=True)
def add_noise(model: Model, noise: Noise, sigmas: Sigmas, latent_image: Latent) -> Latent:
    """Adds noise to a latent.

    Args:
        model: The model.
        noise: The noise.
        sigmas: Noise of the first level is added, or of the difference between the first and the last.
        latent_image: The latent.
    """
    if not len(sigmas):
        return latent_image
    network = model.network
    level = sigmas[0].double() if len(sigmas) == 1 else (sigmas[0] - sigmas[-1]).abs().double()
    x = source_of(latent_image["samples"], network.latent)
    noised = lincomb(network.sampling.process.alpha(level), x, level, noise.generate_noise(latent_image).to(x))
    return {**latent_image, "samples": torch.nan_to_num(network.latent.to_vae(noised), nan=0.0, posinf=0.0, neginf=0.0)}


@node("BasicGuider", "sampling/custom_sampling/guiders")
def basic_guider(model: Model, conditioning: Conditioning) -> Guider:
    """The prediction for a prompt, without guidance.

    Args:
        model: The model.
        conditioning: The conditioning.
    """
    return guided(model, conditioning, None, 1.0)


@node("CFGGuider", "sampling/custom_sampling/guiders")
def cfg_guider(model: Model, positive: Conditioning, negative: Conditioning, cfg: Cfg = 8.0) -> Guider:
    """Classifier-free guidance.

    Args:
        model: The model.
        positive: What to draw.
        negative: What to avoid.
        cfg: Scale of classifier-free guidance; 1 leaves the negative prompt out.
    """
    return guided(model, positive, negative, cfg)


@node("DualCFGGuider", "sampling/custom_sampling/guiders", version=3)
def dual_cfg_guider(
    model: Model,
    cond1: Conditioning,
    cond2: Conditioning,
    negative: Conditioning,
    cfg_conds: Cfg = 8.0,
    cfg_cond2_negative: Cfg = 8.0,
    *,
    style: Literal["regular", "nested"],
) -> Guider:
    """Two prompts with a scale each.

    Args:
        model: The model.
        cond1: The first prompt.
        cond2: The second prompt.
        negative: What to avoid.
        cfg_conds: Scale of the first prompt against the second.
        cfg_cond2_negative: Scale of the second prompt against the negative one.
        style: Which of the two rules; see `guidance.guider.DualGuider`.
    """
    make = partial(DualGuider, cfg=cfg_conds, cfg_negative=cfg_cond2_negative, nested=style == "nested")
    return GuiderValue(model, {"first": cond1, "second": cond2, "negative": negative}, make)


@node("PerpNegGuider", "_for_testing", experimental=True)
def perp_neg_guider(
    model: Model,
    positive: Conditioning,
    negative: Conditioning,
    empty_conditioning: Conditioning,
    cfg: Cfg = 8.0,
    neg_scale: Scale = 1.0,
) -> Guider:
    """Guidance in which the negative prompt acts only across the positive one.

    Args:
        model: The model.
        positive: What to draw.
        negative: What to avoid.
        empty_conditioning: An empty prompt.
        cfg: Scale of classifier-free guidance; 1 leaves the negative prompt out.
        neg_scale: Strength of the negative prompt.
    """
    prompts = {"positive": positive, "negative": negative, "empty": empty_conditioning}
    return GuiderValue(model, prompts, partial(PerpNegDenoiser, cfg=cfg, neg_scale=neg_scale))
