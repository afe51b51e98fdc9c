"""Euler's method."""

from __future__ import annotations

import math

import torch

from sigmafield.grid import Span
from sigmafield.maths import lincomb
from sigmafield.methods.registry import method, preset
from sigmafield.types import Latent, Memory, Noise, Sigma, Step


def churn(
    x: Latent, s: Span, noise: Noise, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float
) -> tuple[Latent, Sigma]:
    """(x̂, σ̂): raise the noise level before a step, arXiv:2206.00364 Alg. 2.

        σ̂ = (1 + γ) σ,   x̂ = x + √(σ̂² − σ²) s_noise ξ,   γ = min(s_churn/n, √2 − 1) on [s_tmin, s_tmax]

    s_churn = 0, or a σ outside the window, draws nothing.
    """
    if s_churn <= 0:
        return x, s.sigma
    inside = (s_tmin <= s.sigma) & (s.sigma <= s_tmax)
    if not inside.any():
        return x, s.sigma
    gamma = torch.where(inside, min(s_churn / s.n, 2**0.5 - 1), 0.0)
    hat = (1 + gamma) * s.sigma
    return lincomb(1.0, x, s_noise * (hat**2 - s.sigma**2).sqrt(), noise(s)), hat


@method("euler", order=1, evals=1, noise="churn", paper="arXiv:2206.00364 Alg. 2")
def euler(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Step:
    """Euler's method for dx/dσ = (x − D)/σ, with optional churn.

        x' = (σ'/σ̂) x̂ + (1 − σ'/σ̂) D(x̂, σ̂)

    s_churn: noise added in all over the run, ≥ 0; s_tmin, s_tmax: between these σ; s_noise: times this.
    """
    x, sigma = churn(x, s, noise, s_churn, s_tmin, s_tmax, s_noise)
    D = (yield x, sigma).x0
    ratio = s.ratio if sigma is s.sigma else s.sigma_next / sigma
    return lincomb(ratio, x, 1 - ratio, D), {}


preset("ddim", of="euler", row={"paper": "arXiv:2010.02502"})
