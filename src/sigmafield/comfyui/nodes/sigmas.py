"""Nodes that change noise levels."""

from __future__ import annotations

from typing import Annotated, Literal

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Model, Sigmas
from sigmafield.comfyui.widgets import Share, StepIndex
from sigmafield.core.annotations import Range
from sigmafield.schedules import edit


@node(
    "SplitSigmas",
    "sampling/custom_sampling/sigmas",
    outputs=(
        "high_sigmas",
        "low_sigmas",
    ),
)
def split_sigmas(sigmas: Sigmas, step: StepIndex = 0) -> tuple[Sigmas, Sigmas]:
    """Splits levels after a number of steps; the level there is in both parts.

    Args:
        sigmas: The noise levels.
        step: Number of steps of the first part.
    """
    return edit.split(sigmas, step)


@node(
    "SplitSigmasDenoise",
    "sampling/custom_sampling/sigmas",
    outputs=(
        "high_sigmas",
        "low_sigmas",
    ),
)
def split_sigmas_denoise(sigmas: Sigmas, denoise: Share = 1.0) -> tuple[Sigmas, Sigmas]:
    """Splits levels so that the second part is a share of the steps.

    Args:
        sigmas: The noise levels.
        denoise: The second part's share of the steps.
    """
    return edit.split_denoise(sigmas, denoise)


@node("FlipSigmas", "sampling/custom_sampling/sigmas")
def flip_sigmas(sigmas: Sigmas) -> Sigmas:
    """Reverses levels; a 0 that comes first becomes 0.0001.

    Args:
        sigmas: The noise levels.
    """
    return edit.flip(sigmas)


@node("SetFirstSigma", "sampling/custom_sampling/sigmas")
def set_first_sigma(
    sigmas: Sigmas, sigma: Annotated[float, Range(0.0, 20000.0), Input(step=0.001, round=False)] = 136.0
) -> Sigmas:
    """Replaces the first level.

    Args:
        sigmas: The noise levels.
        sigma: The new first level.
    """
    return edit.set_first(sigmas, sigma)


@node("ExtendIntermediateSigmas", "sampling/custom_sampling/sigmas", version=3)
def extend_intermediate_sigmas(
    sigmas: Sigmas,
    steps: Annotated[int, Range(1, 100)] = 2,
    start_at_sigma: Annotated[float, Range(-1.0, 20000.0), Input(step=0.01, round=False)] = -1.0,
    end_at_sigma: Annotated[float, Range(0.0, 20000.0), Input(step=0.01, round=False)] = 12.0,
    *,
    spacing: Literal["linear", "cosine", "sine"],
) -> Sigmas:
    """Cuts the intervals between two levels into several.

    Args:
        sigmas: The noise levels.
        steps: Number of steps that replace each interval.
        start_at_sigma: Largest level whose interval is cut; below 0: any.
        end_at_sigma: Smallest level whose interval is cut.
        spacing: Where the cuts are.
    """
    start = float("inf") if start_at_sigma < 0 else start_at_sigma
    return edit.extend_intermediate(sigmas, steps, start, end_at_sigma, spacing)


@node("ManualSigmas", "_for_testing/custom_sampling", version=3, experimental=True)
def manual_sigmas(sigmas: str = "1, 0.5") -> Sigmas:
    """Levels from the numbers in a text.

    Args:
        sigmas: The numbers; exponents are not understood.
    """
    return edit.manual(sigmas)


@node("SamplingPercentToSigma", "sampling/custom_sampling/sigmas", outputs=("sigma_value",))
def sampling_percent_to_sigma(
    model: Model,
    sampling_percent: Annotated[float, Range(0.0, 1.0), Input(step=0.0001)] = 0.0,
    return_actual_sigma: bool = False,
) -> float:
    """The level at a share of the way through sampling.

    Args:
        model: The model.
        sampling_percent: The share: 0 = start.
        return_actual_sigma: Whether 0 and 1 give the largest and the smallest level of the model.
    """
    levels = model.network.sampling.levels
    return edit.sigma_at(levels, sampling_percent) if return_actual_sigma else levels.sigma_at(sampling_percent)
