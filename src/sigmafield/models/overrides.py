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
    """Keeps the model's own discrete levels and sets what the network predicts. Zero terminal SNR: arXiv:2305.08891.

    Args:
        model: A model with discrete noise levels.
        prediction: What the network predicts; lcm also keeps 50 of the levels only.
        zsnr: Whether the levels are rescaled so that the last one is pure noise; false undoes what a checkpoint says.

    Raises:
        ValueError: If the model has no discrete noise levels.
    """
    if model.sampling.beta is None:
        raise ValueError(
            f"{model.name} has no discrete noise levels to change; use continuous_edm, shifted_flow or flux"
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
    """Sets 1000 levels, spaced evenly in ln σ, with EDM's clock. Karras et al., arXiv:2206.00364.

        t = ¼ ln σ

    Args:
        model: Any model.
        prediction: What the network predicts: eps or v with σ_data = 1, edm with σ_data = 0.5, edm on the latents of
            Playground 2.5 (playground), or Cosmos Predict 2's flow (cosmos_rflow).
        sigma_max: Largest level.
        sigma_min: Smallest level.
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
    """Sets v-prediction and 1000 levels, spaced evenly in ln σ, with the arctangent clock. arXiv:2202.00512.

        t = (2/π) arctan σ

    Args:
        model: Any model.
        sigma_max: Largest level.
        sigma_min: Smallest level.
    """
    return replace(model, sampling=continuous_v_sampling(sigma_min, sigma_max))


@checked
def stable_cascade(model: DiffusionModel, *, shift: Positive = 2.0) -> DiffusionModel:
    """Sets the cosine levels of Stable Cascade. arXiv:2306.00637.

    Args:
        model: Any model.
        shift: How far the levels are moved towards more noise; 1 leaves them where they are.
    """
    return replace(model, sampling=cascade_sampling(shift))


@checked
def shifted_flow(model: DiffusionModel, *, shift: Positive = 3.0) -> DiffusionModel:
    """Sets the time shift s of a rectified flow. Esser et al., arXiv:2403.03206, eq. 23.

        σ = s t/(1 + (s − 1) t)

    The network's timestep input stays σ or 1000 σ, as it was trained.

    Args:
        model: A model of rectified flow.
        shift: The time shift s; Stable Diffusion 3 was trained for 3, AuraFlow for 1.73.

    Raises:
        ValueError: If the model is not a rectified flow.
    """
    return replace(model, sampling=shifted(model.sampling, shift))


@checked
def flux(
    model: DiffusionModel, *, max_shift: Shift = 1.15, base_shift: Shift = 0.5, width: Side = 1024, height: Side = 1024
) -> DiffusionModel:
    """Sets Flux's levels for an image size: the shift μ is linear in the number of tokens (16×16 pixels each).

        σ = e^μ/(e^μ + 1/t − 1)

    Args:
        model: A model of rectified flow whose timestep input is σ.
        max_shift: The shift μ at 4096 tokens (1024×1024 pixels); the line goes on above.
        base_shift: The shift μ at 256 tokens (256×256 pixels); the line goes on below.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Raises:
        ValueError: If the network's timestep input is not σ.
    """
    mu = resolution_shift(width * height / 256, (256.0, base_shift), (4096.0, max_shift))
    if model.sampling.levels.timestep(torch.ones((), dtype=torch.float64)) > 1:
        raise ValueError(
            f"{model.name}: Flux's levels need a network whose timestep input is σ; this one was trained on 1000 σ"
        )
    return replace(model, sampling=flux_sampling(mu))


MODEL_SAMPLINGS: dict[str, Callable[..., DiffusionModel]] = {
    function.__name__: function
    for function in (discrete, continuous_edm, continuous_v, stable_cascade, shifted_flow, flux)
}
"""The overrides by name."""


def override_of(spec: Spec | None) -> Callable[[DiffusionModel], DiffusionModel]:
    """Finds the override that a spec names, such as discrete(prediction=v, zsnr=true); None: no override.

    Raises:
        ValueError: The name or a parameter is unknown, or a value is out of range.
    """
    if spec is None:
        return same
    function = named(MODEL_SAMPLINGS, spec.name, "model_sampling")
    return partial(function, **check(spec.name, keywords(function), spec.params))


def same(model: DiffusionModel) -> DiffusionModel:
    """Returns the model unchanged."""
    return model
