"""FreeU: in the decoder of a UNet the backbone counts for more, and the low frequencies of the skips for less.

A decoder block joins h, from below, and the skip. Si et al., arXiv:2309.11497.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sigmafield.core.parameters import Range
from sigmafield.core.protocols import Call, Network
from sigmafield.core.statistics import TINY
from sigmafield.guidance.frequency import plane, scaled_frequencies
from sigmafield.guidance.patches.module_hooks import Change, before, during
from sigmafield.guidance.patches.unet_blocks import arrivals, meetings, unet
from sigmafield.guidance.registry import mod

Features = Float[Tensor, "batch _ ..."]
"""Features within a network: h and the skip may have different numbers of channels, and different sizes."""

Factor = Annotated[float, Range(0, 10)]


def has_widths(module: nn.Module) -> None:
    """Raises ValueError for a network in which no h is four or two times as wide as the first convolution."""
    widths = [channels for _, channels in meetings(module)]
    wide = unet(module).conv_in.out_channels
    if not {2 * wide, 4 * wide} & set(widths):
        raise ValueError(
            f"FreeU acts where a UNet has {4 * wide} or {2 * wide} channels, 4 or 2 times those of its first "
            f"convolution; this one has {', '.join(map(str, dict.fromkeys(widths)))}"
        )


@mod("freeu", "network", "arXiv:2309.11497", fits=has_widths)
def freeu(
    network: Network, call: Call, *, b1: Factor = 1.1, b2: Factor = 1.2, s1: Factor = 0.9, s2: Factor = 0.2
) -> Network:
    """FreeU: where a decoder block takes h and a skip, h counts for more and the skip's coarse content for less.

        h ← b h  in the first half of its channels,   skip ← F⁻¹(s F(skip))  at frequencies −1 and 0 along both axes

    Nothing is changed where h has another number of channels. With all factors 1 nothing is changed.

    Args:
        network: The network.
        call: The call of it.
        b1: Factor of h where it has 4 times the channels of the first convolution.
        b2: Factor of h where it has 2 times the channels of the first convolution.
        s1: Factor of the skip's low frequencies where h has 4 times the channels of the first convolution.
        s2: Factor of the skip's low frequencies where h has 2 times the channels of the first convolution.
    """
    return _patched(network, call, (b1, s1), (b2, s2), constant)


@mod("freeu_v2", "network", "arXiv:2309.11497", fits=has_widths)
def freeu_v2(
    network: Network, call: Call, *, b1: Factor = 1.3, b2: Factor = 1.4, s1: Factor = 0.9, s2: Factor = 0.2
) -> Network:
    """FreeU's second version: the factor of h depends on the position.

        h ← (1 + (b − 1) μ̂) h  in the first half of its channels,   skip as in `freeu`

    μ̂ is the mean of h's channels, from 0 at its smallest position to 1 at its largest.

    Args:
        network: The network.
        call: The call of it.
        b1: Factor of h where it has 4 times the channels of the first convolution.
        b2: Factor of h where it has 2 times the channels of the first convolution.
        s1: Factor of the skip's low frequencies where h has 4 times the channels of the first convolution.
        s2: Factor of the skip's low frequencies where h has 2 times the channels of the first convolution.
    """
    return _patched(network, call, (b1, s1), (b2, s2), by_mean)


def freeu_features(
    h: Features, skip: Features, model_channels: int, *, b1: float, b2: float, s1: float, s2: float
) -> tuple[Features, Features]:
    """(h, skip) of FreeU: the first half of h's channels times b, the skip's frequencies −1 and 0 times s.

    (b1, s1) where h has 4 model_channels channels, (b2, s2) where it has 2, nothing elsewhere; model_channels is 320
    for Stable Diffusion 1, 2 and XL.
    """
    return _both(h, skip, _chosen(h.shape[1], model_channels, (b1, s1), (b2, s2)), constant)


def freeu_v2_features(
    h: Features, skip: Features, model_channels: int, *, b1: float, b2: float, s1: float, s2: float
) -> tuple[Features, Features]:
    """(h, skip) of FreeU's second version: as `freeu_features`, with a factor of 1 + (b − 1) μ̂ at each position.

    μ̂ is the mean of h's channels, from 0 at its smallest position to 1 at its largest; 0 where all are equal.
    """
    return _both(h, skip, _chosen(h.shape[1], model_channels, (b1, s1), (b2, s2)), by_mean)


Factors = tuple[float, float]
"""(b, s): of h, and of the skip's low frequencies."""

Map = Callable[[Features, float], Tensor]
"""(h, b) → the factor of each position, to broadcast over h."""


def constant(h: Features, b: float) -> Tensor:
    """b everywhere."""
    return torch.full_like(h[:1, :1], b)


def by_mean(h: Features, b: float) -> Tensor:
    """1 + (b − 1) μ̂, see `freeu_v2_features`."""
    axes, wide = tuple(range(1, h.ndim)), h if h.dtype == torch.float64 else h.float()
    mean = wide.mean(1, keepdim=True)
    low, high = mean.amin(axes, keepdim=True), mean.amax(axes, keepdim=True)
    return ((b - 1) * (mean - low) / (high - low).clamp(min=TINY) + 1).to(h.dtype)


def _patched(network: Network, call: Call, deep: Factors, middle: Factors, factor: Map) -> Network:
    """The network with h changed where it arrives at each decoder block, and the skip where the two have been joined.

    Between the two, another patch may change the size of h.
    """
    wide, changes = unet(call.module).conv_in.out_channels, list[Change]()

    def joined(module: nn.Module, args: Any, kwargs: Any, channels: int, s: float) -> Any:
        h, skip = args[0][:, :channels], args[0][:, channels:]
        return (torch.cat([h, _skip(skip, s)], 1), *args[1:]), kwargs

    for (resnet, channels), arriving in zip(meetings(call.module), arrivals(call.module)):
        if (chosen := _chosen(channels, wide, deep, middle)) is not None:
            b, s = chosen
            changes += [
                arriving(partial(_backbone, b=b, factor=factor)),
                partial(before, resnet, partial(joined, channels=channels, s=s)),
            ]
    return during(network, changes)


def _chosen(channels: int, model_channels: int, deep: Factors, middle: Factors) -> Factors | None:
    """The factors at an h with this number of channels; None where nothing is changed."""
    return {4 * model_channels: deep, 2 * model_channels: middle}.get(channels)


def _both(h: Features, skip: Features, chosen: Factors | None, factor: Map) -> tuple[Features, Features]:
    return (h, skip) if chosen is None else (_backbone(h, chosen[0], factor), _skip(skip, chosen[1]))


def _backbone(h: Features, b: float, factor: Map) -> Tensor:
    """h with the first half of its channels multiplied."""
    half = h.shape[1] // 2
    return torch.cat([h[:, :half] * factor(h, b), h[:, half:]], 1)


def _skip(skip: Features, s: float) -> Tensor:
    """The skip with its frequencies −1 and 0 along each axis multiplied: of a side of 1 or 2, all of them."""
    return scaled_frequencies(skip, s, 1.0, [1] * len(plane(skip)))
