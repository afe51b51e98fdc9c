"""Linear multistep methods in σ: Adams–Bashforth with exact or fixed coefficients, and DEIS."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.linear import by_order, lincomb
from sigmafield.core.memory import Memory
from sigmafield.core.parameters import Range
from sigmafield.core.process import Span
from sigmafield.core.protocols import Noise, Step
from sigmafield.samplers.euler import slope
from sigmafield.samplers.registry import sampler

Weights = Callable[[Span, int], list[Sigma]]
"""Coefficients of d_i, d_{i−1}, … for one step with k slopes: x' = x + Σ c_j d_{i−j}."""

Order = Annotated[int, Range(1, 4)]
"""Largest number of slopes, limited by the orders that coefficients are known for."""


def adams(x: Latent, s: Span, mem: Memory, order: int, weights: Weights, D: Latent) -> tuple[Latent, Memory]:
    """x + Σ c_j d_{i−j} over the slopes d = (x − D)/σ of this and earlier steps; D where σ' = 0.

    Slopes from before a frozen interval do not count as history.

    Args:
        x: Latent at σ.
        s: Interval of the step.
        mem: Earlier slopes, under d1, d2, …
        order: Largest number of slopes.
        weights: Coefficients for a number of slopes; it may assume σ' > 0.
        D: Prediction at σ.

    Returns:
        x' and the new memory.
    """
    d = slope(x, s, D)
    history = [d, *(mem[f"d{j}"] for j in range(1, order) if f"d{j}" in mem)]
    keep = {f"d{j + 1}": v for j, v in enumerate(history[: order - 1])}
    delta = s.sigma_next - s.sigma
    k = torch.where(s.last, 1, s.history(len(history) - 1) + 1)
    c = by_order(k, lambda n: weights(s, n) if n > 1 else [delta])
    # this step's slope in terms of x and D, so that σ' = 0 gives D itself
    own = c[0] / torch.where(s.sigma == 0, 1.0, s.sigma)
    own = torch.where(s.last, -1.0, own)
    return lincomb(1 + own, x, -own, D, *(v for pair in zip(c[1:], history[1:]) for v in pair)), keep


@cache
def gauss(n: int) -> tuple[list[float], list[float]]:
    """Points and weights of n-point Gauss–Legendre quadrature on [−1, 1]."""
    points, weights = np.polynomial.legendre.leggauss(n)
    return points.tolist(), weights.tolist()


def lagrange(nodes: list[Tensor], at: Tensor) -> list[Tensor]:
    """Values L_j(at) of the Lagrange basis on the nodes.

    Args:
        nodes: Distinct nodes, each of σ's shape.
        at: Where to evaluate, of σ's shape, optionally with a leading axis of points.
    """
    out: list[Tensor] = []
    for j, node in enumerate(nodes):
        value = torch.ones_like(at)
        for q, other in enumerate(nodes):
            if q != j:
                value = value * (at - other) / (node - other)
        out.append(value)
    return out


def integrals(s: Span, k: int, n: int, clock: Callable[[Sigma], Sigma]) -> list[Sigma]:
    """∫ L_j(t(σ)) dσ from σ to σ' by Gauss–Legendre quadrature.

    Args:
        s: Interval of the step.
        k: Number of levels, this and earlier ones, whose times t(σ) are the nodes of the Lagrange basis L_j.
        n: Number of quadrature points.
        clock: The time t(σ).
    """
    points, weights = gauss(n)
    half, mid = (s.sigma_next - s.sigma) / 2, (s.sigma_next + s.sigma) / 2
    nodes = [clock(s.at(-j).sigma) for j in range(k)]
    total = [torch.zeros_like(half) for _ in nodes]
    for p, w in zip(points, weights):
        basis = lagrange(nodes, clock(mid + half * p))
        total = [so_far + w * value for so_far, value in zip(total, basis)]
    return [half * value for value in total]


def lagrange_weights(s: Span, k: int) -> list[Sigma]:
    """Adams–Bashforth coefficients on the visited levels: exact for slopes that are polynomials in σ."""
    return integrals(s, k, (k + 1) // 2, lambda sigma: sigma)


@sampler("lms", order=2, evals=1, paper="Katherine Crowson, k-diffusion; Adams–Bashforth")
def lms(x: Latent, s: Span, mem: Memory, noise: Noise, *, order: Annotated[int, Range(1)] = 4) -> Step:
    """Linear multistep method: integrates the polynomial in σ through the last slopes exactly.

        x' = x + Σ_j d_{i−j} ∫_σ^σ' L_j,   d = (x − D)/σ,   k = min(i + 1, order) slopes

    Where σ' = 0 the result is D. The first steps have fewer slopes, so a whole run converges with second order.

    Args:
        order: Largest number of slopes; 1 is Euler's method.
    """
    return adams(x, s, mem, order, lagrange_weights, (yield x, s.sigma).x0)


FIXED = {1: [1.0], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
"""Adams–Bashforth coefficients for equal steps."""


@sampler("ipndm", order=1, evals=1, paper="arXiv:2204.13902")
def ipndm(x: Latent, s: Span, mem: Memory, noise: Noise, *, max_order: Order = 4) -> Step:
    """iPNDM: Adams–Bashforth with the coefficients for equal steps, used on any steps.

        x' = x + (σ' − σ) Σ_j c_j d_{i−j},   c = [1], [3, −1]/2, [23, −16, 5]/12, [55, −59, 37, −9]/24

    Where σ' = 0 the result is D. On unequal steps it is of first order.

    Args:
        max_order: Largest number of slopes; 1 is Euler's method.
    """
    D = (yield x, s.sigma).x0
    return adams(x, s, mem, max_order, lambda s, k: [(s.sigma_next - s.sigma) * c for c in FIXED[k]], D)


@sampler("ipndm_v", order=1, evals=1, paper="arXiv:2204.13902")
def ipndm_v(
    x: Latent, s: Span, mem: Memory, noise: Noise, *, max_order: Order = 4, exact_weights: bool = False
) -> Step:
    """iPNDM-v: Adams–Bashforth with ComfyUI's coefficients for unequal steps.

        x' = x + h Σ_j c_j d_{i−j},   h = σ' − σ,   c from h and the three earlier steps

    The coefficients are the classical ones only for two slopes and for equal steps. On unequal steps with four slopes
    they do not sum to 1, so not even constant slopes are integrated exactly. Where σ' = 0 the result is D.

    Args:
        max_order: Largest number of slopes; 1 is Euler's method.
        exact_weights: Use the exact Adams–Bashforth coefficients, which makes it `lms`, instead of ComfyUI's.
    """
    weights = lagrange_weights if exact_weights else variable_weights
    return adams(x, s, mem, max_order, weights, (yield x, s.sigma).x0)


def variable_weights(s: Span, k: int) -> list[Sigma]:
    """Coefficients of `ipndm_v` for k slopes."""
    h, *earlier = (s.at(-j).sigma_next - s.at(-j).sigma for j in range(k))
    if k == 1:
        return [h]
    h1 = earlier[0]
    r = h / h1
    if k == 2:
        return [h * (1 + r / 2), -h * r / 2]
    h2 = earlier[1]
    q, P = h1 / h2, h / (3 * (h + h1))
    T = (1 - P * h * (h + h1) / (h1 * (h1 + h2))) / 2
    c = [1 + r / 2 + T, -r / 2 - (1 + q) * T, q * T]
    if k == 4:
        h3 = earlier[2]
        w = h1 * (h1 + h2) / (h2 * (h2 + h3))
        U = (1 - P) / 2 + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
        B = U * h * (h + h1) * (h + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
        c = [c[0] + B, c[1] - (1 + q + w) * B, c[2] + (q + w * (1 + h2 / h3)) * B, -B * w * q]
    return [h * value for value in c]


BETA_D, BETA_MIN = 17.53785065094062, -0.004715818328307364
"""VP schedule of DEIS between σ = 0.002 and 80, with the reference's float32 rounding of ln(1 + 0.002²)."""

POINTS = 10_000
"""Number of points of the sum that approximates the integral of DEIS."""

CHUNKS = 100
"""Number of parts in which that sum is taken over a field, to save memory."""


def vp_time(sigma: Sigma) -> Sigma:
    """Time t(σ) of the VP schedule of DEIS."""
    return ((BETA_MIN**2 + 2 * BETA_D * (sigma**2 + 1).log()).sqrt() - BETA_MIN) / BETA_D


def deis_sums(s: Span, k: int) -> list[Sigma]:
    """∫ (dσ/dt) L_j(t) dt between t(σ) and t(σ'), by ComfyUI's sum, which includes both ends and is biased."""
    if k == 1:
        return [s.sigma_next - s.sigma]
    nodes = [vp_time(s.at(-j).sigma) for j in range(k)]
    t, t_next = nodes[0], vp_time(s.sigma_next)
    total = [torch.zeros_like(t) for _ in nodes]
    chunks = 1 if t.ndim == 0 else CHUNKS
    for u in torch.tensor_split(torch.linspace(0, 1, POINTS, dtype=torch.float64), chunks):
        tau = t + (t_next - t) * u.reshape(-1, *[1] * t.ndim)
        bar = torch.exp(-0.5 * tau**2 * BETA_D - tau * BETA_MIN)
        g = 0.5 * (BETA_MIN + tau * BETA_D) / (bar * (1 - bar)).sqrt()
        total = [so_far + (g * value).sum(0) for so_far, value in zip(total, lagrange(nodes, tau))]
    return [(t_next - t) / POINTS * value for value in total]


def deis_integrals(s: Span, k: int) -> list[Sigma]:
    """∫ L_j(t(σ)) dσ from σ to σ', exact to rounding."""
    return integrals(s, k, 16, vp_time)


@sampler("deis", order=2, evals=1, paper="arXiv:2204.13902 tAB-DEIS")
def deis(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    max_order: Order = 3,
    deis_mode: Literal["tab", "rhoab"] = "tab",
    quadrature: Literal["sum", "gauss"] = "sum",
) -> Step:
    """DEIS: integrates the polynomial through the last slopes, in VP time (tab) or in σ (rhoab).

        x' = x + Σ_j d_{i−j} ∫ (dσ/dt) L_j(t) dt,   d = (x − D)/σ,   k = min(i + 1, max_order) slopes

    Where σ' = 0 the result is D.

    Args:
        max_order: Largest number of slopes; 1 is Euler's method.
        deis_mode: Variable of the polynomial: "tab" is VP time, "rhoab" is σ, which makes it `lms` of this order.
        quadrature: How "tab" is integrated: "sum" is ComfyUI's sum over 10 000 points with a relative error of about
            10⁻⁴, "gauss" is exact to rounding.
    """
    tab = deis_sums if quadrature == "sum" else deis_integrals
    return adams(x, s, mem, max_order, tab if deis_mode == "tab" else lagrange_weights, (yield x, s.sigma).x0)
