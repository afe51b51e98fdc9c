"""ER-SDE: extended reverse-time SDE solvers, whose noise scaling φ is a choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.linear import lincomb, safe_div
from sigmafield.core.memory import Memory
from sigmafield.core.parameters import NonNegative, Range
from sigmafield.core.process import Span
from sigmafield.core.protocols import Noise, Step
from sigmafield.samplers.grids import clip_first
from sigmafield.samplers.multistep import gauss
from sigmafield.samplers.registry import preset, sampler

NODES = 200
"""Number of points of the sums that approximate the integrals of ER-SDE."""


def er_noise(ell: Sigma) -> Sigma:
    """φ(ℓ) = ℓ (e^(ℓ^0.3) + 10), the noise scaling of ER-SDE-5."""
    return ell * ((ell**0.3).exp() + 10)


def reverse_time(eta: float = 1.0) -> Callable[[Sigma], Sigma]:
    """φ(ℓ) = ℓ^(1 + η), the noise scaling of the reverse-time SDE.

    Args:
        eta: Amount of noise η ≥ 0; 0 gives the same φ as `ode`.
    """

    def power(ell: Sigma) -> Sigma:
        return ell ** (1 + eta)

    power.__name__ = f"reverse_time({eta:g})"
    return power


def ode(ell: Sigma) -> Sigma:
    """φ(ℓ) = ℓ, with which ER-SDE is the ODE; use it with s_noise = 0."""
    return ell


@sampler("er_sde", order=1, evals=1, noise="gaussian", grid=clip_first, paper="arXiv:2309.06169 Alg. 3")
def er_sde(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    s_noise: NonNegative = 1.0,
    noise_scaler: Callable[[Sigma], Sigma] = er_noise,
    max_stage: Annotated[int, Range(1, 3)] = 3,
    quadrature: Literal["sum", "gauss"] = "sum",
) -> Step:
    """ER-SDE: extended reverse-time SDE in ℓ = σ/α, of up to third order with earlier predictions.

        x' = (α'/α) R x + α' ((1 − R) D + (δ + S φ') D⁽¹⁾ + (δ²/2 + Sᵤ φ') D⁽²⁾) + α' c s_noise ξ
        R = φ(ℓ')/φ(ℓ),   δ = ℓ' − ℓ,   c² = ℓ'² − ℓ² R²,   D⁽¹⁾, D⁽²⁾ divided differences in ℓ
        S = ∫ dℓ/φ,   Sᵤ = ∫ (ℓ'' − ℓ)/φ over [ℓ', ℓ]

    The first step uses D only, the second D and D⁽¹⁾. Where σ' = 0 the result is D.

    Args:
        s_noise: Factor on the added noise.
        noise_scaler: Noise scaling φ as a function of ℓ; `reverse_time(eta)` gives the reverse-time SDE, `ode` (with
            s_noise = 0) the ODE.
        max_stage: Largest number of predictions used, including earlier ones.
        quadrature: How S and Sᵤ are integrated: "sum" is ComfyUI's sum over 200 points, which limits the order of
            convergence to little more than 1; "gauss" is exact to rounding.
    """
    D = (yield x, s.sigma).x0
    alpha, zero = s.process.alpha(s.sigma), torch.zeros_like(s.sigma)
    ell, ell_next = s.sigma / alpha, s.sigma_next / s.alpha_next
    phi, phi_next = noise_scaler(ell), noise_scaler(ell_next)
    R = torch.where(s.last, 0.0, phi_next / torch.where(phi == 0, 1.0, phi))
    delta = ell_next - ell
    S, Su = (er_sums if quadrature == "sum" else er_integrals)(ell, ell_next, noise_scaler)

    # weights of the divided differences in terms of D, D₋ and the previous first difference
    stage = min(max_stage, 1 + ("D" in mem) + ("slope" in mem))
    k1 = safe_div(torch.ones_like(ell), ell - mem["ell"]) if stage >= 2 else zero
    k2 = safe_div(torch.full_like(ell, 2.0), ell - mem["ell_2"]) if stage >= 3 else zero
    k2 = torch.where(s.history(2) < 2, 0.0, k2)
    w1 = torch.where(s.last, 0.0, s.alpha_next * (delta + S * phi_next)) if stage >= 2 else zero
    w2 = torch.where(s.last, 0.0, s.alpha_next * (delta**2 / 2 + Su * phi_next)) * k2 if stage >= 3 else zero
    keep: Memory = {"D": D, "ell": ell, "ell_2": mem.get("ell", ell)}
    terms = [s.alpha_next / alpha * R, x, s.alpha_next * (1 - R), D]
    if stage >= 2:
        first = lincomb(k1, D, -k1, mem["D"])
        keep["slope"] = first
        terms += [w1 + w2, first, -w2, mem.get("slope", first)]
    if s_noise > 0 and not s.last.all():
        c = (ell_next**2 - (ell * R) ** 2).clamp(min=0).sqrt()
        terms += [s.alpha_next * c * s_noise, noise(s)]
    return lincomb(*terms), keep


def er_sums(ell: Sigma, ell_next: Sigma, phi: Callable[[Sigma], Sigma]) -> tuple[Sigma, Sigma]:
    """(S, Sᵤ) of ER-SDE by sums over `NODES` points without the upper end, as in ComfyUI.

    Args:
        ell: ℓ = σ/α at the start of the step.
        ell_next: ℓ' at its end.
        phi: Noise scaling φ.
    """
    step = (ell - ell_next) / NODES
    points = ell_next + torch.arange(NODES, dtype=torch.float64).reshape(-1, *[1] * ell.ndim) * step
    per_phi = torch.where(points == 0, 0.0, 1 / phi(torch.where(points == 0, 1.0, points)))
    return step * per_phi.sum(0), step * ((points - ell) * per_phi).sum(0)


def er_integrals(ell: Sigma, ell_next: Sigma, phi: Callable[[Sigma], Sigma]) -> tuple[Sigma, Sigma]:
    """(S, Sᵤ) of ER-SDE by Gauss–Legendre quadrature in ln ℓ, where 1/φ is smooth; 0 where ℓ' = 0.

    Args:
        ell: ℓ = σ/α at the start of the step.
        ell_next: ℓ' at its end.
        phi: Noise scaling φ.
    """
    points, weights = gauss(32)
    at_zero = ell_next == 0
    half = torch.where(at_zero, 0.0, (ell / torch.where(at_zero, 1.0, ell_next)).log() / 2)
    total, moment = torch.zeros_like(ell), torch.zeros_like(ell)
    for p, w in zip(points, weights):
        at = ell * ((p - 1) * half).exp()
        share = w * half * at / phi(torch.where(at == 0, 1.0, at))
        total, moment = total + share, moment + share * (at - ell)
    return total, moment


preset("er_sde_reverse_time", of="er_sde", noise_scaler=reverse_time(1.0))
preset(
    "er_sde_ode",
    of="er_sde",
    row={"noise": "none", "fixed": ("s_noise", "noise_scaler")},
    s_noise=0.0,
    noise_scaler=ode,
)
