"""Nodes that make noise levels."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.names import SchedulerName
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Model, Sigmas
from sigmafield.comfyui.widgets import Amount, Level, Share, StepCount
from sigmafield.core.annotations import Range
from sigmafield.recipes.ksampler import whole_steps
from sigmafield.schedules import SCHEDULES, edit, from_range, published


@node("BasicScheduler", "sampling/custom_sampling/schedulers", version=3)
def basic_scheduler(model: Model, scheduler: SchedulerName, steps: StepCount = 20, denoise: Share = 1.0) -> Sigmas:
    """A schedule over the levels of a model.

    Args:
        model: The model.
        scheduler: The schedule.
        steps: Number of steps.
        denoise: Share of the schedule that is used.
    """
    if denoise <= 0:
        return torch.empty(0, dtype=torch.float64)
    whole = steps if denoise >= 1 else whole_steps(steps, denoise)
    return SCHEDULES.lookup(scheduler)(whole, model.network.sampling.levels)[-(steps + 1) :]


@node("KarrasScheduler", "sampling/custom_sampling/schedulers")
def karras_scheduler(
    steps: StepCount = 20, sigma_max: Level = 14.614642, sigma_min: Level = 0.0291675, rho: Amount = 7.0
) -> Sigmas:
    """Equal steps in a root of σ.

    Args:
        steps: Number of steps.
        sigma_max: Largest level.
        sigma_min: Smallest level above 0.
        rho: Exponent ρ; larger values put more steps at low noise.
    """
    return from_range.karras(steps, sigma_min, sigma_max, rho=rho)


@node("ExponentialScheduler", "sampling/custom_sampling/schedulers")
def exponential_scheduler(steps: StepCount = 20, sigma_max: Level = 14.614642, sigma_min: Level = 0.0291675) -> Sigmas:
    """Equal steps in ln σ.

    Args:
        steps: Number of steps.
        sigma_max: Largest level.
        sigma_min: Smallest level above 0.
    """
    return from_range.exponential(steps, sigma_min, sigma_max)


@node("PolyexponentialScheduler", "sampling/custom_sampling/schedulers")
def polyexponential_scheduler(
    steps: StepCount = 20, sigma_max: Level = 14.614642, sigma_min: Level = 0.0291675, rho: Amount = 1.0
) -> Sigmas:
    """ln σ follows a power of a line.

    Args:
        steps: Number of steps.
        sigma_max: Largest level.
        sigma_min: Smallest level above 0.
        rho: The power; 1 gives equal steps in ln σ.
    """
    return from_range.polyexponential(steps, sigma_min, sigma_max, rho=rho)


@node("LaplaceScheduler", "sampling/custom_sampling/schedulers")
def laplace_scheduler(
    steps: StepCount = 20,
    sigma_max: Level = 14.614642,
    sigma_min: Level = 0.0291675,
    mu: Annotated[float, Range(-10.0, 10.0), Input(step=0.1, round=False)] = 0.0,
    beta: Annotated[float, Range(0.0, 10.0), Input(step=0.1, round=False)] = 0.5,
) -> Sigmas:
    """Quantiles of a Laplace distribution of ln σ; the last level is above 0.

    Args:
        steps: Number of steps.
        sigma_max: Largest level.
        sigma_min: Smallest level above 0.
        mu: Mean of ln σ.
        beta: Scale of the distribution.
    """
    return from_range.laplace(steps, sigma_min, sigma_max, mu=mu, beta=beta)


@node("VPScheduler", "sampling/custom_sampling/schedulers")
def vp_scheduler(
    steps: StepCount = 20,
    beta_d: Level = 19.9,
    beta_min: Level = 0.1,
    eps_s: Annotated[float, Range(0.0, 1.0), Input(step=0.0001, round=False)] = 0.001,
) -> Sigmas:
    """Levels of the variance-preserving SDE at equal times.

    Args:
        steps: Number of steps.
        beta_d: Slope of β(t).
        beta_min: β at time 0.
        eps_s: Time of the last level above 0.
    """
    return from_range.vp(steps, beta_d=beta_d, beta_min=beta_min, eps_s=eps_s)


@node("BetaSamplingScheduler", "sampling/custom_sampling/schedulers")
def beta_sampling_scheduler(
    model: Model,
    steps: StepCount = 20,
    alpha: Annotated[float, Range(0.0, 50.0), Input(step=0.01, round=False)] = 0.6,
    beta: Annotated[float, Range(0.0, 50.0), Input(step=0.01, round=False)] = 0.6,
) -> Sigmas:
    """Quantiles of a beta distribution of the model's timesteps.

    Args:
        model: The model.
        steps: Number of steps.
        alpha: First parameter of the distribution.
        beta: Second parameter of the distribution.
    """
    return SCHEDULES["beta"](steps, model.network.sampling.levels, alpha=alpha, beta=beta)


@node("SDTurboScheduler", "sampling/custom_sampling/schedulers")
def sd_turbo_scheduler(model: Model, steps: Annotated[int, Range(1, 10)] = 1, denoise: Share = 1.0) -> Sigmas:
    """Levels at every hundredth timestep, as the Turbo models were distilled for.

    Args:
        model: The model.
        steps: Number of steps.
        denoise: Where the levels start: 1 = pure noise.
    """
    return SCHEDULES["sd_turbo"](steps, model.network.sampling.levels, denoise=denoise)


@node("AlignYourStepsScheduler", "sampling/custom_sampling/schedulers", version=3)
def align_your_steps_scheduler(
    model_type: Literal["SD1", "SDXL", "SVD"], steps: StepCount = 10, denoise: Share = 1.0
) -> Sigmas:
    """Published levels that minimise a bound of the error.

    Args:
        model_type: The model that they were found for.
        steps: Number of steps.
        denoise: Share of the schedule that is used.
    """
    return _last(published.align_your_steps(steps, model_type), denoise)


@node("GITSScheduler", "sampling/custom_sampling/schedulers")
def gits_scheduler(
    coeff: Annotated[float, Range(0.8, 1.5), Input(step=0.05)] = 1.2,
    steps: Annotated[int, Range(2, 1000)] = 10,
    denoise: Share = 1.0,
) -> Sigmas:
    """Published levels that follow the shape of the trajectory.

    Args:
        coeff: Which of the tables; higher values put more steps at low noise.
        steps: Number of steps.
        denoise: Share of the schedule that is used.
    """
    return _last(published.gits(steps, coeff), denoise)


@node("OptimalStepsScheduler", "sampling/custom_sampling/schedulers", version=3)
def optimal_steps_scheduler(
    model_type: Literal["FLUX", "Wan", "Chroma"], steps: Annotated[int, Range(3, 1000)] = 20, denoise: Share = 1.0
) -> Sigmas:
    """Published levels that were found by a search.

    Args:
        model_type: The model that they were found for.
        steps: Number of steps.
        denoise: Share of the schedule that is used.
    """
    return _last(published.optimal_steps(steps, model_type), denoise)


@node("Flux2Scheduler", "sampling/custom_sampling/schedulers")
def flux2_scheduler(
    steps: Annotated[int, Range(1, 4096)] = 20,
    width: Annotated[int, Range(16, 16384), Input(step=1)] = 1024,
    height: Annotated[int, Range(16, 16384), Input(step=1)] = 1024,
) -> Sigmas:
    """Flux 2's levels for an image size.

    Args:
        steps: Number of steps.
        width: Width in pixels.
        height: Height in pixels.
    """
    return published.flux2(steps, width=width, height=height)


def _last(sigmas: Tensor, denoise: float) -> Tensor:
    """The last steps of a published table."""
    return edit.split_denoise(sigmas, denoise)[1] if denoise > 0 else sigmas[:0]
