"""The scale as a function of σ: intervals with guidance, and schedules of the scale."""

from __future__ import annotations

import math
from typing import Annotated

import torch

from sigmafield.core.arrays import Sigma
from sigmafield.core.parameters import Range
from sigmafield.core.time_windows import within
from sigmafield.guidance.hooks import Asked, Scale
from sigmafield.guidance.registry import mod

Weight = Annotated[float, Range(0, 10)]


@mod("interval", "scale", "arXiv:2404.07724")
def interval(
    at: Asked,
    *,
    start: Annotated[float, Range(0, "end", below=True)] = 0.0,
    end: Annotated[float, Range("start", 1, above=True)] = 1.0,
) -> Scale:
    """Guidance in a part of the run: cfg from `start` to `end`, both included, 1 elsewhere.

    Elsewhere the negative prompt is not evaluated.

    Args:
        at: What is asked.
        start: Share of the way through the network's noise levels, 0 = pure noise, from which there is guidance.
        end: Share of the way through the network's noise levels up to which there is guidance.
    """
    return torch.where(within((start, end), at.sigma, at.ctx.span.sigma_at), at.cfg, 1.0)


@mod("sigma_interval", "scale", "arXiv:2404.07724")
def sigma_interval(
    at: Asked,
    *,
    low: Annotated[float, Range(0, "high", below=True)] = 0.0,
    high: Annotated[float, Range("low", 10000, above=True)] = 10000.0,
) -> Scale:
    """Guidance for low < σ ≤ high, as in the paper: cfg there, 1 elsewhere, where the negative prompt is not evaluated.

    Args:
        at: What is asked.
        low: Noise level above which there is guidance.
        high: Noise level up to which there is guidance.
    """
    return torch.where((low < at.sigma) & (at.sigma <= high), at.cfg, 1.0)


@mod("cfg_below", "scale", "arXiv:2503.20314")
def cfg_below(
    at: Asked,
    *,
    sigma: Annotated[float, Range(0, 10000)] = 0.875,
    cfg: Annotated[float, Range(0, 100)] = 1.0,
) -> Scale:
    """Another scale below a noise level, for models with another network there, as Wan 2.2 14B.

    Args:
        at: What is asked.
        sigma: Noise level from which up the scale is the run's own; for two networks, their boundary.
        cfg: The scale below it.
    """
    return torch.where(at.sigma < sigma, cfg, at.cfg)


@mod("ramp", "scale", "arXiv:2404.13040")
def ramp(at: Asked, *, start: Weight = 0.0, end: Weight = 2.0) -> Scale:
    """A linear schedule: 1 + w (cfg − 1), w from `start` at pure noise to `end` without noise.

        w = start + (end − start) s,   s = 1 − (2/π) arctan(σ/α)

    s is the share of the way along the angle of signal and noise, whatever the steps of the run.

    Args:
        at: What is asked.
        start: Weight w of the guidance at pure noise.
        end: Weight w of the guidance without noise.
    """
    return _weighted(at, start + (end - start) * _share(at))


@mod("cosine_ramp", "scale", "arXiv:2404.13040")
def cosine_ramp(
    at: Asked, *, start: Weight = 0.0, end: Weight = 2.0, power: Annotated[float, Range(0.1, 10)] = 1.0
) -> Scale:
    """A powered cosine schedule: 1 + w (cfg − 1), with s as for `ramp`.

        w = start + (end − start)(1 − cos(π s^power))/2

    Args:
        at: What is asked.
        start: Weight w of the guidance at pure noise.
        end: Weight w of the guidance without noise.
        power: Power of s; above 1 the weight changes later.
    """
    return _weighted(at, start + (end - start) * (1 - torch.cos(math.pi * _share(at) ** power)) / 2)


def _share(at: Asked) -> Sigma:
    alpha = at.ctx.span.process.alpha(at.sigma)
    return 1 - torch.atan2(at.sigma, alpha) / (math.pi / 2)


def _weighted(at: Asked, w: Sigma) -> Scale:
    return 1 + w * (at.cfg - 1)
