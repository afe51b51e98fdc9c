"""Runge–Kutta methods in σ."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Annotated

import torch

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.linear import lincomb
from sigmafield.core.memory import Memory
from sigmafield.core.parameters import NonNegative, Range
from sigmafield.core.process import Span
from sigmafield.core.protocols import Noise, Pred, Step
from sigmafield.samplers.euler import churn, churns, slope
from sigmafield.samplers.registry import sampler


@sampler("heun", order=2, evals=2, noise="churn", noisy=churns, paper="arXiv:2206.00364 Alg. 2")
def heun(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    s_churn: NonNegative = 0.0,
    s_tmin: NonNegative = 0.0,
    s_tmax: Annotated[float, Range("s_tmin", math.inf)] = math.inf,
    s_noise: NonNegative = 1.0,
    flow_noise: bool = False,
) -> Step:
    """Heun's method for dx/dσ = (x − D)/σ, the mean of the slopes at both ends, with optional churn.

        xₑ = (σ'/σ̂) x̂ + (1 − σ'/σ̂) D₁,   D₁ = D(x̂, σ̂),   D₂ = D(xₑ, σ')
        x' = x̂ + ½ (σ' − σ̂) ((x̂ − D₁)/σ̂ + (xₑ − D₂)/σ')
           = ρ x̂ + (1 − ρ − w) D₁ + w D₂,   ρ = σ'/σ̂,   w = (1 − ρ)/(2ρ)

    x̂ and σ̂ are x and σ with the churn noise added, see `churn`. Where σ' = 0 it is Euler's method, without D₂.

    Args:
        s_churn: Total amount of noise added over the run; 0 adds none.
        s_tmin: Smallest σ at which noise is added.
        s_tmax: Largest σ at which noise is added.
        s_noise: Factor on the added noise.
        flow_noise: On a flow, add noise that keeps the flow's marginals; ComfyUI adds VE's noise.
    """
    x, s = churn(x, s, noise, s_churn, s_tmin, s_tmax, s_noise, flow_noise)
    D1 = (yield x, s.sigma).x0
    ratio = s.ratio
    euler = lincomb(ratio, x, 1 - ratio, D1)
    if s.last.all():
        return euler, {}
    D2 = (yield euler, s.sigma_next).x0
    w = torch.where(s.last, 0.0, (1 - ratio) / (2 * torch.where(s.last, 1.0, ratio)))
    return lincomb(ratio, x, 1 - ratio - w, D1, w, D2), {}


@sampler(
    "heunpp2", order=1, evals=3, noise="churn", noisy=churns, paper="github.com/Carzit/sd-webui-samplers-scheduler"
)
def heunpp2(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    s_churn: NonNegative = 0.0,
    s_tmin: NonNegative = 0.0,
    s_tmax: Annotated[float, Range("s_tmin", math.inf)] = math.inf,
    s_noise: NonNegative = 1.0,
    flow_noise: bool = False,
) -> Step:
    """Heun++: slopes at this level and the next two, weighted by their levels relative to the first, σ₀.

        x' = x̂ + (σ' − σ̂) (w₁ d₁ + w₂ d₂ + w₃ d₃),   d = (x − D)/σ
        w₂ = σ'/(3 σ₀), w₃ = σ''/(3 σ₀), w₁ = 1 − w₂ − w₃

    x̂ and σ̂ are x and σ with the churn noise added, see `churn`. On the second-to-last step w₂ = σ'/(2 σ₀) and w₃ = 0;
    on the last step it is Euler's method.

    Args:
        s_churn: Total amount of noise added over the run; 0 adds none.
        s_tmin: Smallest σ at which noise is added.
        s_tmax: Largest σ at which noise is added.
        s_noise: Factor on the added noise.
        flow_noise: On a flow, add noise that keeps the flow's marginals; ComfyUI adds VE's noise.
    """
    x, s = churn(x, s, noise, s_churn, s_tmin, s_tmax, s_noise, flow_noise)
    delta, end = s.sigma_next - s.sigma, s.at(s.n - 1 - s.i).sigma_next
    d = slope(x, s, (yield x, s.sigma).x0)
    if (s.sigma_next == end).all():
        return lincomb(1.0, x, delta, d), {}
    first, two = s.at(-s.i).sigma, s.at(1)
    second = lincomb(1.0, x, delta, d)
    d2 = slope(second, two, (yield second, two.sigma).x0)
    if (two.sigma_next == end).all():
        w2 = two.sigma / (2 * first)
        return lincomb(1.0, x, delta * (1 - w2), d, delta * w2, d2), {}
    third = lincomb(1.0, second, two.sigma_next - two.sigma, d2)
    d3 = slope(third, two.at(1), (yield third, two.sigma_next).x0)
    w2, w3 = two.sigma / (3 * first), two.sigma_next / (3 * first)
    return lincomb(1.0, x, delta * (1 - w2 - w3), d, delta * w2, d2, delta * w3, d3), {}


def midpoint(x: Latent, s: Span, D: Latent) -> Generator[tuple[Latent, Sigma], Pred, Latent]:
    """x' by the slope at the middle of the interval in ln σ, which Euler's method reaches; D where σ' = 0.

    Args:
        x: Latent at σ.
        s: Interval of the step.
        D: Prediction at σ.
    """
    mid = s.ve.split(0.5)[0]
    middle = lincomb(mid.ratio, x, 1 - mid.ratio, D)
    D2 = (yield middle, mid.sigma_next).x0
    k = torch.where(s.last, 0.0, (s.sigma_next - s.sigma) / mid.sigma_next)
    rest = torch.where(s.last, 1.0, 0.0)
    return lincomb(1 - rest, x, k, middle, -k, D2, rest, D)


@sampler("dpm_2", order=2, evals=2, noise="churn", noisy=churns, paper="arXiv:2206.00927 Alg. 1, arXiv:2206.00364")
def dpm_2(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    s_churn: NonNegative = 0.0,
    s_tmin: NonNegative = 0.0,
    s_tmax: Annotated[float, Range("s_tmin", math.inf)] = math.inf,
    s_noise: NonNegative = 1.0,
    flow_noise: bool = False,
) -> Step:
    """DPM-Solver-2 with optional churn: takes the slope at the middle in ln σ for the whole step.

        u  = x̂ + (σₘ − σ̂) d(x̂, σ̂),   σₘ = √(σ̂ σ'),   x' = x̂ + (σ' − σ̂) d(u, σₘ)

    x̂ and σ̂ are x and σ with the churn noise added, see `churn`. Where σ' = 0 it is Euler's method.

    Args:
        s_churn: Total amount of noise added over the run; 0 adds none.
        s_tmin: Smallest σ at which noise is added.
        s_tmax: Largest σ at which noise is added.
        s_noise: Factor on the added noise.
        flow_noise: On a flow, add noise that keeps the flow's marginals; ComfyUI adds VE's noise.
    """
    x, s = churn(x, s, noise, s_churn, s_tmin, s_tmax, s_noise, flow_noise)
    D = (yield x, s.sigma).x0
    if s.last.all():
        return D, {}
    return (yield from midpoint(x, s, D)), {}


@sampler("dpm_2_ancestral", order=2, evals=2, noise="gaussian", paper="arXiv:2206.00927 Alg. 1")
def dpm_2_ancestral(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    renoise_from_zero: bool = False,
) -> Step:
    """Ancestral DPM-Solver-2: `dpm_2` to σ_down, then noise back up to σ'.

        x' = k y + σ_up s_noise ξ,   y = dpm_2 over σ → σ_down,   (σ_down, k, σ_up) = s.ancestral(η)

    Where σ_down = 0, y = D. If η is so large that σ_down = 0, the result is D without noise, although σ' > 0, as in
    ComfyUI (which gives NaN on a flow).

    Args:
        eta: Amount of added noise: 0 gives the ODE, 1 the noise of DDPM.
        s_noise: Factor on the added noise.
        renoise_from_zero: Where σ_down = 0, add noise up to σ', unlike ComfyUI.
    """
    D = (yield x, s.sigma).x0
    down, keep, up = s.ancestral(eta)
    without = s.last if renoise_from_zero else down.last
    if without.all():
        return D, {}
    y = D if down.last.all() else (yield from midpoint(x, down, D))
    keep = torch.where(without, 1.0, keep)
    if eta <= 0 or s_noise <= 0:
        return lincomb(keep, y), {}
    return lincomb(keep, y, torch.where(without, 0.0, up * s_noise), noise(s)), {}
