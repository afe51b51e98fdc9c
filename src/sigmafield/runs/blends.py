"""How much of a denoised latent and how much of a noised one: weights over a run, and ways to put the two together.

ComfyUI-Iterative-Mixer's. A weight c = 1 is the denoised path alone, c = 0 the noised latent alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.linear import lincomb
from sigmafield.core.registry import named

Blend = Callable[[Latent, Latent, float], Latent]
"""(noised z, denoised x, weight c of x) → the mixed latent."""

Curve = Callable[[int, int, float, int, int], float]
"""(step t, steps N, alpha, start, stop) → c, before the clamp."""

SLERP_LEAST = 1e-6
"""Below this sin ω, latents count as parallel."""


def cosine(t: int, steps: int, alpha: float, start: int, stop: int) -> float:
    """(½ (1 + cos(π (S − t)/S)))^α with S = stop, and 1 behind it; start is not used. DemoFusion, arXiv:2311.16973."""
    return 1.0 if t > stop or not stop else (0.5 * (1 + math.cos(math.pi * (stop - t) / stop))) ** alpha


def linear(t: int, steps: int, alpha: float, start: int, stop: int) -> float:
    """t/S with S = stop (N if that is 0), 1 behind it and 0 before start; alpha is not used."""
    stop = stop or steps
    return 0.0 if t < start else 1.0 if t > stop else t / stop


def logistic(t: int, steps: int, alpha: float, start: int, stop: int) -> float:
    """1/(1 + e^(−5α (u − m))), u = t/(N − 1), m = (S + start)/(2N − 2), S = stop or N; 1 behind S, 0 before start."""
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
    """The weight c of the denoised path at each step, rising over a run of N = `steps`.

    curve: of `CURVES`; alpha_1: its steepness; start, stop: the steps that it runs between, stop = N for None, and
    it may be above N; clamp: from this share of the steps on c = 1; then c goes to least + (most − least) c.
    Raises ValueError for an unknown curve and for numbers below 0.
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
    """(sin((1 − c) ω) z + sin(c ω) x)/sin ω, ω the angle between a sample's z and x; `addition` where it is 0 or π.

    Its size is between those of the two, where `addition` of unrelated latents is shorter than both.
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
    """z + c (‖z‖ x/‖x‖ − z): x at z's size, by sample. At c = 1 it is not x, but x at that size."""
    return lincomb(1 - c, z, c, _norm(z) * _unit(x))


BLENDS: dict[str, Blend] = {"addition": addition, "slerp": slerp, "norm_only": norm_only}


def _samples(x: Tensor) -> tuple[int, ...]:
    return (len(x), *[1] * (x.ndim - 1))


def _norm(x: Tensor) -> Tensor:
    """‖·‖ of every sample."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).reshape(_samples(x))


def _unit(x: Tensor) -> Tensor:
    """x/‖x‖ of every sample; 0 where it is 0."""
    size = _norm(x)
    return torch.where(size == 0, torch.zeros_like(x), x / torch.where(size == 0, torch.ones_like(size), size))
