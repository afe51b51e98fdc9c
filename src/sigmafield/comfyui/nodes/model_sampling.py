"""Nodes that change a model's noise levels, or what it is said to predict."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.values import Model
from sigmafield.comfyui.widgets import FarLevel, ImageSide, Scale
from sigmafield.models import overrides

DISCRETE: dict[str, Literal["eps", "v", "x0", "img_to_img", "lcm"]] = {
    "eps": "eps", "v_prediction": "v", "lcm": "lcm", "x0": "x0", "img_to_img": "img_to_img",
}  # fmt: skip
CONTINUOUS: dict[str, Literal["v", "eps", "edm", "playground", "cosmos_rflow"]] = {
    "v_prediction": "v", "edm": "edm", "edm_playground_v2.5": "playground", "eps": "eps",
    "cosmos_rflow": "cosmos_rflow",
}  # fmt: skip
"""Our names of what a network predicts."""


@node("ModelSamplingDiscrete", "advanced/model")
def model_sampling_discrete(
    model: Model, sampling: Literal["eps", "v_prediction", "lcm", "x0", "img_to_img"], zsnr: bool = False
) -> Model:
    """Sets what the network predicts, on its discrete levels.

    Args:
        model: The model.
        sampling: What the network predicts.
        zsnr: Whether the last level is pure noise.
    """
    made = overrides.discrete(model.network, prediction=DISCRETE[sampling], zsnr=zsnr)
    return replace(model, network=made)


@node("ModelSamplingContinuousEDM", "advanced/model")
def model_sampling_continuous_edm(
    model: Model,
    sampling: Literal["v_prediction", "edm", "edm_playground_v2.5", "eps", "cosmos_rflow"],
    sigma_max: FarLevel = 120.0,
    sigma_min: FarLevel = 0.002,
) -> Model:
    """Sets levels spaced evenly in ln σ, with EDM's clock.

    Args:
        model: The model.
        sampling: What the network predicts.
        sigma_max: Largest level.
        sigma_min: Smallest level above 0.
    """
    made = overrides.continuous_edm(
        model.network, prediction=CONTINUOUS[sampling], sigma_max=sigma_max, sigma_min=sigma_min
    )
    return replace(model, network=made)


@node("ModelSamplingContinuousV", "advanced/model")
def model_sampling_continuous_v(
    model: Model, sampling: Literal["v_prediction"], sigma_max: FarLevel = 500.0, sigma_min: FarLevel = 0.03
) -> Model:
    """Sets levels spaced evenly in ln σ for a network that predicts v.

    Args:
        model: The model.
        sampling: What the network predicts.
        sigma_max: Largest level.
        sigma_min: Smallest level above 0.
    """
    made = overrides.continuous_v(model.network, sigma_max=sigma_max, sigma_min=sigma_min)
    return replace(model, network=made)


@node("ModelSamplingStableCascade", "advanced/model")
def model_sampling_stable_cascade(model: Model, shift: Scale = 2.0) -> Model:
    """Sets the cosine levels of Stable Cascade.

    Args:
        model: The model.
        shift: How far the levels are moved towards more noise.
    """
    return replace(model, network=overrides.stable_cascade(model.network, shift=shift))


@node("ModelSamplingSD3", "advanced/model")
def model_sampling_sd3(model: Model, shift: Scale = 3.0) -> Model:
    """Sets the time shift of a rectified flow.

    Args:
        model: The model.
        shift: The shift; Stable Diffusion 3 was trained for 3.
    """
    return replace(model, network=overrides.shifted_flow(model.network, shift=shift))


@node("ModelSamplingAuraFlow", "advanced/model")
def model_sampling_aura_flow(model: Model, shift: Scale = 1.73) -> Model:
    """Sets the time shift of a rectified flow.

    Args:
        model: The model.
        shift: The shift; AuraFlow was trained for 1.73.
    """
    return replace(model, network=overrides.shifted_flow(model.network, shift=shift))


@node("ModelSamplingFlux", "advanced/model")
def model_sampling_flux(
    model: Model, max_shift: Scale = 1.15, base_shift: Scale = 0.5, width: ImageSide = 1024, height: ImageSide = 1024
) -> Model:
    """Sets Flux's levels for an image size.

    Args:
        model: The model.
        max_shift: Shift at 1024×1024 pixels.
        base_shift: Shift at 256×256 pixels.
        width: Width in pixels.
        height: Height in pixels.
    """
    made = overrides.flux(model.network, max_shift=max_shift, base_shift=base_shift, width=width, height=height)
    return replace(model, network=made)
