"""Nodes that compute with the values of latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.scaling import matched
from sigmafield.comfyui.sockets import Input, Socket
from sigmafield.comfyui.values import Latent
from sigmafield.core.annotations import Range
from sigmafield.core.linear import filled
from sigmafield.guidance.frequency import reinhard, unsharp

Operation = Annotated[Callable[[Tensor], Tensor], Socket("LATENT_OPERATION")]
"""A function from latents [B, C, H, W] to latents."""

Ratio = Annotated[float, Range(0, 1), Input(step=0.01)]


def _pair(samples1: Latent, samples2: Latent, method: str = "bilinear") -> tuple[Tensor, Tensor]:
    """The samples of both, the second with the size and the batch of the first."""
    first = samples1["samples"]
    return first, filled(matched(samples2["samples"], first, method), len(first), 0)


@node("LatentAdd", "latent/advanced", version=3)
def latent_add(samples1: Latent, samples2: Latent) -> Latent:
    """Adds latents.

    Args:
        samples1: The first latents.
        samples2: The second latents, which are resized to the size of the first.
    """
    first, second = _pair(samples1, samples2)
    return {**samples1, "samples": first + second}


@node("LatentSubtract", "latent/advanced", version=3)
def latent_subtract(samples1: Latent, samples2: Latent) -> Latent:
    """Subtracts latents.

    Args:
        samples1: The latents that are subtracted from.
        samples2: What is subtracted; it is resized to the size of the first.
    """
    first, second = _pair(samples1, samples2)
    return {**samples1, "samples": first - second}


@node("LatentMultiply", "latent/advanced", version=3)
def latent_multiply(samples: Latent, multiplier: Annotated[float, Range(-10, 10), Input(step=0.01)] = 1.0) -> Latent:
    """Multiplies latents by a number.

    Args:
        samples: The latents.
        multiplier: The number.
    """
    return {**samples, "samples": samples["samples"] * multiplier}


@node("LatentBlend", "_for_testing", title="Latent Blend")
def latent_blend(samples1: Latent, samples2: Latent, blend_factor: Ratio = 0.5) -> Latent:
    """Mixes latents.

        f s₁ + (1 − f) s₂

    Args:
        samples1: The first latents.
        samples2: The second latents, which are resized to the size of the first.
        blend_factor: f, the share of the first.
    """
    first, second = _pair(samples1, samples2, "bicubic")
    return {**samples1, "samples": blend_factor * first + (1 - blend_factor) * second}


@node("LatentInterpolate", "latent/advanced", version=3)
def latent_interpolate(samples1: Latent, samples2: Latent, ratio: Ratio = 1.0) -> Latent:
    """Mixes the directions and the lengths of the channel vectors of latents.

        u/‖u‖ (r n₁ + (1 − r) n₂),   u = r s₁/n₁ + (1 − r) s₂/n₂,   n = ‖s‖

    Vectors without a direction give 0.

    Args:
        samples1: The first latents.
        samples2: The second latents, which are resized to the size of the first.
        ratio: r, the share of the first.
    """
    first, second = _pair(samples1, samples2)
    n1, n2 = (torch.linalg.vector_norm(each, dim=1, keepdim=True) for each in (first, second))
    u = ratio * (first / n1).nan_to_num() + (1 - ratio) * (second / n2).nan_to_num()
    made = u / torch.linalg.vector_norm(u, dim=1, keepdim=True) * (ratio * n1 + (1 - ratio) * n2)
    return {**samples1, "samples": made.nan_to_num()}


@node("LatentApplyOperation", "latent/advanced/operations", version=3, experimental=True)
def latent_apply_operation(samples: Latent, operation: Operation) -> Latent:
    """Applies an operation to latents.

    Args:
        samples: The latents.
        operation: The operation.
    """
    return {**samples, "samples": operation(samples["samples"])}


@node("LatentOperationTonemapReinhard", "latent/advanced/operations", version=3, experimental=True)
def latent_operation_tonemap_reinhard(
    multiplier: Annotated[float, Range(0, 100), Input(step=0.01)] = 1.0,
) -> Operation:
    """An operation that shortens long channel vectors.

        x/n · n T/(T + n),   n = ‖x‖ + 10⁻¹⁰,   T = k (mean n + 5 std n)

    Args:
        multiplier: k; larger ones change less.
    """

    def tonemap(latent: Tensor) -> Tensor:
        return reinhard(latent, multiplier)

    return tonemap


@node("LatentOperationSharpen", "latent/advanced/operations", version=3, experimental=True)
def latent_operation_sharpen(
    sharpen_radius: Annotated[int, Range(1, 31), Input(step=1)] = 9,
    sigma: Annotated[float, Range(0.1, 10), Input(step=0.1)] = 1.0,
    alpha: Annotated[float, Range(0, 5), Input(step=0.01)] = 0.1,
) -> Operation:
    """An operation that sharpens the directions of the channel vectors and keeps their lengths.

    Args:
        sharpen_radius: Radius of the filter in latent positions.
        sigma: Its standard deviation, where the radius is 1.
        alpha: The strength.
    """

    def sharpen(latent: Tensor) -> Tensor:
        return unsharp(latent, sharpen_radius, sigma, alpha)

    return sharpen
