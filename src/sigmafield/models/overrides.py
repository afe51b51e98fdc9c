"""A diffusion model with other noise levels or another prediction: what ComfyUI's ModelSampling… nodes do.

The network stays as it is. Its timestep input, the use of its answer and the levels that schedules see change. Useful
where a checkpoint does not say what it was trained for (v-prediction, zero terminal SNR, a distilled LCM), and to move
a flow's steps towards more noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch

from sigmafield.core.parameters import Positive, Range, check, checked, keywords
from sigmafield.core.registry import Spec, named
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.parameterization.latent_format import latent_format
from sigmafield.parameterization.prediction import (
    cascade_sampling,
    continuous_edm_sampling,
    continuous_v_sampling,
    cosmos_sampling,
    discrete_sampling,
    flux_sampling,
    shifted,
)
from sigmafield.parameterization.timesteps import resolution_shift

Low = Annotated[float, Range(0, "sigma_max", above=True, below=True)]
Shift = Annotated[float, Range(0, 100)]
Side = Annotated[int, Range(16, 16384)]


@checked
def discrete(
    model: DiffusionModel, *, prediction: Literal["eps", "v", "x0", "img_to_img", "lcm"] = "eps", zsnr: bool = False
) -> DiffusionModel:
    """The model's own discrete levels, with a prediction: eps, v, x0, img_to_img, or lcm with its 50 levels.

    zsnr: the last level is pure noise, arXiv:2305.08891; False takes that back where the checkpoint says so.
    Raises ValueError for a model without discrete levels.
    """
    if model.sampling.beta is None:
        raise ValueError(
            f"{model.name} has no discrete noise levels to make anew; use continuous_edm, shifted_flow or flux"
        )
    return replace(model, sampling=discrete_sampling(prediction, model.sampling.beta, zsnr))


@checked
def continuous_edm(
    model: DiffusionModel,
    *,
    prediction: Literal["v", "eps", "edm", "playground", "cosmos_rflow"] = "v",
    sigma_max: Positive = 120.0,
    sigma_min: Low = 0.002,
) -> DiffusionModel:
    """1000 levels from sigma_min to sigma_max, evenly in ln σ, t = ¼ ln σ. Karras et al., arXiv:2206.00364.

    prediction: eps or v with σ_data = 1, edm with 0.5, cosmos_rflow, or playground, which is edm on the latents of
    Playground 2.5. 0 < sigma_min < sigma_max.
    """
    if prediction == "cosmos_rflow":
        return replace(model, sampling=cosmos_sampling(sigma_min, sigma_max))
    if prediction == "playground":
        known = latent_format("SDXL_Playground_2_5")
        model, prediction = replace(model, latent=replace(known, factor=model.latent.factor)), "edm"
    data = 0.5 if prediction == "edm" else 1.0
    return replace(model, sampling=continuous_edm_sampling(prediction, sigma_min, sigma_max, data))


@checked
def continuous_v(model: DiffusionModel, *, sigma_max: Positive = 500.0, sigma_min: Low = 0.03) -> DiffusionModel:
    """v-prediction with t = (2/π) arctan σ and 1000 levels, evenly in ln σ. 0 < sigma_min < sigma_max."""
    return replace(model, sampling=continuous_v_sampling(sigma_min, sigma_max))


@checked
def stable_cascade(model: DiffusionModel, *, shift: Positive = 2.0) -> DiffusionModel:
    """The cosine levels of Stable Cascade; shift > 0 moves them towards more noise. arXiv:2306.00637."""
    return replace(model, sampling=cascade_sampling(shift))


@checked
def shifted_flow(model: DiffusionModel, *, shift: Positive = 3.0) -> DiffusionModel:
    """Levels σ = s t/(1 + (s − 1) t) of a rectified flow, s = shift > 0; t as the network knows it: σ or 1000 σ.

    Stable Diffusion 3 has 3, AuraFlow 1.73. Esser et al., arXiv:2403.03206, eq. 23. Raises ValueError for a network
    that is no flow.
    """
    return replace(model, sampling=shifted(model.sampling, shift))


@checked
def flux(
    model: DiffusionModel, *, max_shift: Shift = 1.15, base_shift: Shift = 0.5, width: Side = 1024, height: Side = 1024
) -> DiffusionModel:
    """Flux's levels for a size: μ is linear in the number of 16x16-pixel places, from base_shift to max_shift.

    base_shift is for 256 places (256x256 pixels), max_shift for 4096 (1024x1024), both from 0 to 100; beyond them the
    line goes on. width, height: in pixels, 16 … 16384. Raises ValueError for a network that is no flow whose timestep
    is σ.
    """
    mu = resolution_shift(width * height / 256, (256.0, base_shift), (4096.0, max_shift))
    if model.sampling.levels.timestep(torch.ones((), dtype=torch.float64)) > 1:
        raise ValueError(f"{model.name}: Flux's levels tell the network σ, and this one was trained on 1000 σ")
    return replace(model, sampling=flux_sampling(mu))


MODEL_SAMPLINGS: dict[str, Callable[..., DiffusionModel]] = {
    function.__name__: function
    for function in (discrete, continuous_edm, continuous_v, stable_cascade, shifted_flow, flux)
}
"""The functions by name."""


def override_of(spec: Spec | None) -> Callable[[DiffusionModel], DiffusionModel]:
    """The override that a spec names, such as discrete(prediction=v, zsnr=true); None leaves a model as it is.

    Raises:
        ValueError: The name or a parameter is unknown, or a value is out of range.
    """
    if spec is None:
        return same
    function = named(MODEL_SAMPLINGS, spec.name, "model_sampling")
    return partial(function, **check(spec.name, keywords(function), spec.params))


def same(model: DiffusionModel) -> DiffusionModel:
    """The model as it is."""
    return model
