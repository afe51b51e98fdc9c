"""Runge–Kutta methods in σ."""

from __future__ import annotations

import math

import torch

from sigmafield.grid import Span
from sigmafield.maths import lincomb
from sigmafield.methods.euler import churn
from sigmafield.methods.registry import method
from sigmafield.types import Latent, Memory, Noise, Step


@method("heun", order=2, evals=2, noise="churn", paper="arXiv:2206.00364 Alg. 2")
def heun(
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
    """Heun's method for dx/dσ = (x − D)/σ, with optional churn: the mean of the slopes at both ends.

        xₑ = (σ'/σ̂) x̂ + (1 − σ'/σ̂) D₁,   D₁ = D(x̂, σ̂),   D₂ = D(xₑ, σ')
        x' = x̂ + ½ (σ' − σ̂) ((x̂ − D₁)/σ̂ + (xₑ − D₂)/σ')
           = ρ x̂ + (1 − ρ − w) D₁ + w D₂,   ρ = σ'/σ̂,   w = (1 − ρ)/(2ρ)

    Where σ' = 0 it is Euler's step and D₂ is not evaluated.
    """
    x, sigma = churn(x, s, noise, s_churn, s_tmin, s_tmax, s_noise)
    D1 = (yield x, sigma).x0
    ratio = s.ratio if sigma is s.sigma else s.sigma_next / sigma
    euler = lincomb(ratio, x, 1 - ratio, D1)
    if s.last.all():
        return euler, {}
    D2 = (yield euler, s.sigma_next).x0
    w = torch.where(s.last, 0.0, (1 - ratio) / (2 * torch.where(s.last, 1.0, ratio)))
    return lincomb(ratio, x, 1 - ratio - w, D1, w, D2), {}
