"""A pipeline with other noise levels or another prediction: what ComfyUI's ModelSampling… nodes do, as functions.

The network stays as it is; what it is told, what is made of its answers and what schedules see changes. Of use where
a checkpoint does not say what it was trained for (v-prediction, zero terminal SNR, a distilled LCM), and to move a
flow's steps towards more noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from sigmafield.latents import latent_format
from sigmafield.levels import resolution_shift
from sigmafield.models.pipeline import Pipeline
from sigmafield.param import (
    cascade_sampling,
    continuous_edm_sampling,
    continuous_v_sampling,
    cosmos_sampling,
    discrete_sampling,
    flux_sampling,
    shifted,
)


def discrete(pipe: Pipeline, *, prediction: str = "eps", zsnr: bool = False) -> Pipeline:
    """The model's own discrete levels, with a prediction: eps, v, x0, img_to_img, or lcm with its 50 levels.

    zsnr: the last level is pure noise, arXiv:2305.08891; False takes that back where the checkpoint says so.
    Raises ValueError for a model without discrete levels.
    """
    if pipe.sampling.beta is None:
        raise ValueError(f"{pipe.name} has no discrete noise levels to make anew; use continuous_edm, sd3 or flux")
    return replace(pipe, sampling=discrete_sampling(prediction, pipe.sampling.beta, zsnr))


def continuous_edm(
    pipe: Pipeline, *, prediction: str = "v", sigma_max: float = 120.0, sigma_min: float = 0.002
) -> Pipeline:
    """1000 levels from sigma_min to sigma_max, evenly in ln σ, t = ¼ ln σ. Karras et al., arXiv:2206.00364.

    prediction: eps or v with σ_data = 1, edm with 0.5, cosmos_rflow, or playground, which is edm on the latents of
    Playground 2.5. 0 < sigma_min < sigma_max.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min must be above 0 and below sigma_max; got {sigma_min} and {sigma_max}")
    if prediction == "cosmos_rflow":
        return replace(pipe, sampling=cosmos_sampling(sigma_min, sigma_max))
    if prediction == "playground":
        known = latent_format("SDXL_Playground_2_5")
        pipe, prediction = replace(pipe, latent=replace(known, factor=pipe.latent.factor)), "edm"
    data = 0.5 if prediction == "edm" else 1.0
    return replace(pipe, sampling=continuous_edm_sampling(prediction, sigma_min, sigma_max, data))


def continuous_v(pipe: Pipeline, *, sigma_max: float = 500.0, sigma_min: float = 0.03) -> Pipeline:
    """v-prediction with t = (2/π) arctan σ and 1000 levels, evenly in ln σ. 0 < sigma_min < sigma_max."""
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min must be above 0 and below sigma_max; got {sigma_min} and {sigma_max}")
    return replace(pipe, sampling=continuous_v_sampling(sigma_min, sigma_max))


def stable_cascade(pipe: Pipeline, *, shift: float = 2.0) -> Pipeline:
    """The cosine levels of Stable Cascade; shift > 0 moves them towards more noise. arXiv:2306.00637."""
    return replace(pipe, sampling=cascade_sampling(_positive(shift)))


def shifted_flow(pipe: Pipeline, *, shift: float = 3.0) -> Pipeline:
    """Levels σ = s t/(1 + (s − 1) t) of a rectified flow, s = shift > 0; t as the network knows it: σ or 1000 σ.

    Stable Diffusion 3 has 3, AuraFlow 1.73. Esser et al., arXiv:2403.03206, eq. 23. Raises ValueError for a network
    that is no flow.
    """
    return replace(pipe, sampling=shifted(pipe.sampling, _positive(shift)))


def flux(
    pipe: Pipeline, *, max_shift: float = 1.15, base_shift: float = 0.5, width: int = 1024, height: int = 1024
) -> Pipeline:
    """Flux's levels for a size: μ is linear in the number of 16x16-pixel places, from base_shift to max_shift.

    base_shift is for 256 places (256x256 pixels), max_shift for 4096 (1024x1024); beyond them the line goes on.
    Raises ValueError for a network that is no flow whose timestep is σ.
    """
    mu = resolution_shift(width * height / 256, (256.0, base_shift), (4096.0, max_shift))
    if pipe.sampling.levels.timestep(torch.ones((), dtype=torch.float64)) > 1:
        raise ValueError(f"{pipe.name}: Flux's levels tell the network σ, and this one was trained on 1000 σ")
    return replace(pipe, sampling=flux_sampling(mu))


MODEL_SAMPLINGS: dict[str, Callable[..., Pipeline]] = {
    function.__name__: function
    for function in (discrete, continuous_edm, continuous_v, stable_cascade, shifted_flow, flux)
}
"""The functions by name."""


def _positive(shift: float) -> float:
    if not shift > 0:
        raise ValueError(f"shift must be above 0; got {shift}")
    return shift
