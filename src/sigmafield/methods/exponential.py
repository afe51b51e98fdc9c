"""Stochastic exponential Runge–Kutta methods in λ."""

from __future__ import annotations

from typing import Literal

import torch

from sigmafield.grid import Span, clip_first
from sigmafield.maths import lincomb, phi_2
from sigmafield.methods.registry import method, preset
from sigmafield.types import Latent, Memory, Noise, Step


@method("seeds_2", order=2, evals=2, noise="gaussian", grid=clip_first, paper="arXiv:2305.14267 Alg. 2")
def seeds_2(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
    solver: Literal["phi_1", "phi_2"] = "phi_1",
) -> Step:
    """SEEDS-2: two-stage stochastic exponential Runge–Kutta in λ = ln(α/σ).

        u  = a₁ x + b₁ D₁ + c₁ ξ₁                     first part, λ → λ + r h
        x' = a x + (b − w) D₁ + w D₂ + a₂ c₁ ξ₁ + c₂ ξ₂,   D₂ = D(u, σ(λ + r h))
        w  = b/(2r) (phi_1)   or   α' (1 − (1 − e^(−z))/z)/r, z = (1 + η) h (phi_2)

    ξ₁ is carried to σ' by the second part's own decay a₂. Where σ' = 0 the result is D₁.
    r: place of the stage, 0 < r ≤ 1. eta: 0 = ODE, 1 = full SDE; any ≥ 0.
    """
    D1 = (yield x, s.sigma).x0
    if s.last.all():
        return D1, {}
    one, two = s.split(r)
    (a1, b1, c1), (a2, _, c2), (a, b, _) = one.ei(eta), two.ei(eta), s.ei(eta)
    noisy = eta > 0 and s_noise > 0
    kick1 = [c1 * s_noise, noise(one)] if noisy else []
    D2 = (yield lincomb(a1, x, b1, D1, *kick1), one.sigma_next).x0
    w = b / (2 * r) if solver == "phi_1" else s.alpha_next * phi_2((1 + eta) * s.h) / r
    w = torch.where(s.last, 0.0, w)
    kick2 = [a2 * kick1[0], kick1[1], c2 * s_noise, noise(two)] if noisy else []
    return lincomb(a, x, b - w, D1, w, D2, *kick2), {}


preset(
    "exp_heun_2_x0",
    of="seeds_2",
    row={"noise": "none", "paper": "arXiv:2308.02157"},
    eta=0.0,
    s_noise=0.0,
    r=1.0,
    solver="phi_2",
)
preset("exp_heun_2_x0_sde", of="seeds_2", r=1.0, solver="phi_2")
