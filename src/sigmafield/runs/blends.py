"""Blends of a denoised and a noised latent: weights over a run, and blending functions. After ComfyUI-Iterative-Mixer.

A weight c = 1 is the denoised latent alone, c = 0 the noised one alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.linear import lincomb
from sigmafield.core.registry import named
from sigmafield.core.typed import vector_norm

Blend = Callable[[Latent, Latent, float], Latent]
"""(noised z, denoised x, weight c of x) → the mixed latent."""

Curve = Callable[[int, int, float, int, int], float]
"""(step t, steps N, alpha, start, stop) → c, before the clamp."""

SLERP_LEAST = 1e-6
"""Latents count as parallel if sin ω is below this."""


def cosine(t: int, steps: int, alpha: float, start: int, stop: int) -> float:
    """(½ (1 + cos(π (S − t)/S)))^α with S = stop, and 1 after S; start is not used. DemoFusion, arXiv:2311.16973."""
    return 1.0 if t > stop or not stop else (0.5 * (1 + math.cos(math.pi * (stop - t) / stop))) ** alpha


def linear(t: int, steps: int, alpha: float, start: int, stop: int) -> float:
    """t/S with S = stop (N if that is 0), 1 after step S and 0 before start; alpha is not used."""
    stop = stop or steps
    return 0.0 if t < start else 1.0 if t > stop else t / stop


def logistic(t: int, steps: int, alpha: float, start: int, stop: int) -> float:
    """1/(1 + e^(−5α (u − m))), u = t/(N − 1), m = (S + start)/(2N − 2), S = stop or N; 1 after S, 0 before start."""
    stop, last = stop or steps, max(steps - 1, 1)
    middle = (stop + start) / (2 * last)
    return 0.0 if t < start else 1.0 if t > stop else 1 / (1 + math.exp(-5 * alpha * (t / last - middle)))


CURVES: dict[str, Curve] = {"cosine": cosine, "linear": linear, "logistic": logistic}


def blending_weights(
    curve: str,
    steps: int,
    *,
    alpha_1: float = 2.4,
    start: int = 0,
    stop: int | None = None,
    clamp: float = 1.0,
    least: float = 0.0,
    most: float = 1.0,
) -> list[float]:
    """The weight c of the denoised latent at each step, rising over a run of N = `steps`.

    Args:
        curve: A name of `CURVES`.
        steps: Number of steps N.
        alpha_1: Steepness of the curve.
        start: Step at which the curve starts.
        stop: Step at which the curve reaches its end; None for N, and it may be above N.
        clamp: Share of the steps from which on c = 1.
        least: Lowest weight; the curve is scaled to least + (most − least) c.
        most: Highest weight.

    Raises:
        ValueError: The curve is unknown, or a number of steps or a share is below 0.
    """
    of = named(CURVES, curve, "blending schedule")
    stop = steps if stop is None else stop
    for name, value in (("steps", steps), ("start", start), ("stop", stop), ("clamp", clamp)):
        if value < 0:
            raise ValueError(f"{name} must be ≥ 0; got {value}")
    from_here = math.floor(clamp * steps)
    c = [1.0 if t >= from_here else of(t, steps, alpha_1, start, stop) for t in range(steps)]
    return [least + (most - least) * value for value in c]


def addition(z: Latent, x: Latent, c: float) -> Latent:
    """(1 − c) z + c x."""
    return lincomb(1 - c, z, c, x)


def slerp(z: Latent, x: Latent, c: float) -> Latent:
    """(sin((1 − c) ω) z + sin(c ω) x)/sin ω, ω the angle between a sample's z and x; `addition` if it is 0 or π.

    The norm of the result is between the norms of the two; `addition` of unrelated latents has a smaller norm.
    """
    cosine = (_unit(z) * _unit(x)).flatten(1).sum(1).clamp(-1, 1).reshape(_samples(z))
    omega = cosine.arccos()
    sine = omega.sin()
    parallel = sine < SLERP_LEAST
    safe = torch.where(parallel, torch.ones_like(sine), sine)
    a = torch.where(parallel, 1 - c, ((1 - c) * omega).sin() / safe)
    b = torch.where(parallel, c, (c * omega).sin() / safe)
    return a * z + b * x


def norm_only(z: Latent, x: Latent, c: float) -> Latent:
    """z + c (‖z‖ x/‖x‖ − z), sample by sample: x is scaled to the norm of z, also at c = 1."""
    return lincomb(1 - c, z, c, _norm(z) * _unit(x))


BLENDS: dict[str, Blend] = {"addition": addition, "slerp": slerp, "norm_only": norm_only}


def _samples(x: Tensor) -> tuple[int, ...]:
    return (len(x), *[1] * (x.ndim - 1))


def _norm(x: Tensor) -> Tensor:
    """‖x‖ of every sample."""
    return vector_norm(x.flatten(1), 1).reshape(_samples(x))


def _unit(x: Tensor) -> Tensor:
    """x/‖x‖ of every sample; 0 where it is 0."""
    size = _norm(x)
    return torch.where(size == 0, torch.zeros_like(x), x / torch.where(size == 0, torch.ones_like(size), size))
