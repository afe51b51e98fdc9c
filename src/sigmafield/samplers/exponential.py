"""Exponential integrators: SEEDS, refined exponential multistep, extended reverse-time SDE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.linear import lincomb, phi_2, safe_div
from sigmafield.core.memory import Memory
from sigmafield.core.parameters import NonNegative, Range
from sigmafield.core.process import Span
from sigmafield.core.protocols import Noise, Step
from sigmafield.samplers.euler import NO_NOISE
from sigmafield.samplers.grids import clip_first
from sigmafield.samplers.multistep import gauss
from sigmafield.samplers.registry import preset, sampler


@sampler("seeds_2", order=2, evals=2, noise="gaussian", grid=clip_first, paper="arXiv:2305.14267 Alg. 2")
def seeds_2(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    r: Annotated[float, Range(0, 1, above=True)] = 0.5,
    solver: Literal["phi_1", "phi_2"] = "phi_1",
) -> Step:
    """SEEDS-2: two-stage stochastic exponential Runge–Kutta method in λ = ln(α/σ).

        u  = a₁ x + b₁ D₁ + c₁ ξ₁                     first part, λ → λ + r h
        x' = a x + (b − w) D₁ + w D₂ + a₂ c₁ ξ₁ + c₂ ξ₂,   D₂ = D(u, σ(λ + r h))
        w  = b/(2r) (phi_1)   or   α' (1 − (1 − e^(−z))/z)/r, z = (1 + η) h (phi_2)

    The noise ξ₁ of the first part is carried to σ' by a₂, the decay over the second part. Where σ' = 0 the result is
    D₁.

    Args:
        eta: Amount of added noise: 0 gives the ODE, 1 the full SDE.
        s_noise: Factor on the added noise.
        r: Location of the second stage as a fraction of the step in λ.
        solver: Weight w of the second stage: "phi_1" is b/(2r), "phi_2" the exponential integral.
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
    row={"noise": "none", "fixed": NO_NOISE, "paper": "arXiv:2308.02157"},
    eta=0.0,
    s_noise=0.0,
    r=1.0,
    solver="phi_2",
)
preset("exp_heun_2_x0_sde", of="seeds_2", r=1.0, solver="phi_2")


@sampler("seeds_3", order=3, evals=3, noise="gaussian", grid=clip_first, paper="arXiv:2305.14267 Alg. 3")
def seeds_3(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    r_1: Annotated[float, Range(0, "r_2", above=True, below=True)] = 1 / 3,
    r_2: Annotated[float, Range("r_1", 1, above=True)] = 2 / 3,
) -> Step:
    """SEEDS-3: three-stage stochastic exponential Runge–Kutta method in λ = ln(α/σ).

        u₁ = a₁ x + b₁ D₁ + ζ₁                               to λ + r₁ h
        u₂ = a₂ x + (b₂ − w₂) D₁ + w₂ D₂ + ζ₂                to λ + r₂ h
        x' = a x + (b − w₃) D₁ + w₃ D₃ + ζ₃,   w₂ = (r₂/r₁) α₂ φ₂(r₂ z),  w₃ = α' φ₂(z)/r₂,   z = (1 + η) h
        φ₂(z) = 1 − (1 − e^(−z))/z

    ζ₁, ζ₂ and ζ₃ are one path of noise: each adds the noise of its own part to the previous ζ, decayed over that part.
    Where σ' = 0 the result is D₁.

    Args:
        eta: Amount of added noise: 0 gives the ODE, 1 the full SDE.
        s_noise: Factor on the added noise.
        r_1: Location of the second stage as a fraction of the step in λ.
        r_2: Location of the third stage as a fraction of the step in λ.
    """
    D1 = (yield x, s.sigma).x0
    if s.last.all():
        return D1, {}
    to_1, to_2 = s.split(r_1)[0], s.split(r_2)[0]
    parts = [to_1, replace(to_2, sigma=to_1.sigma_next), replace(s, sigma=to_2.sigma_next)]
    noisy = eta > 0 and s_noise > 0
    kicks: list[Tensor] = []

    def carried(part: Span) -> list[Tensor]:
        """The noise so far decayed over this part, with the noise of the part added."""
        if noisy:
            decay, _, c = part.ei(eta)
            kicks[:] = [v for k, xi in zip(kicks[::2], kicks[1::2]) for v in (decay * k, xi)]
            kicks.extend([c * s_noise, noise(part)])
        return kicks

    (a1, b1, _), (a2, b2, _), (a, b, _) = to_1.ei(eta), to_2.ei(eta), s.ei(eta)
    D2 = (yield lincomb(a1, x, b1, D1, *carried(parts[0])), to_1.sigma_next).x0
    w2 = r_2 / r_1 * to_2.alpha_next * phi_2((1 + eta) * to_2.h)
    D3 = (yield lincomb(a2, x, b2 - w2, D1, w2, D2, *carried(parts[1])), to_2.sigma_next).x0
    w3 = torch.where(s.last, 0.0, s.alpha_next * phi_2((1 + eta) * s.h) / r_2)
    return lincomb(a, x, b - w3, D1, w3, D3, *carried(parts[2])), {}


@sampler("res_multistep_ancestral", order=2, evals=1, noise="gaussian", paper="arXiv:2308.02157 Sec. 3")
def res_multistep_ancestral(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    flow_noise: bool = False,
) -> Step:
    """Refined exponential multistep to σ_down, then noise back up to σ'; in λ = −ln σ for every process.

        x' = k (a x + (b − w) D + w D₋) + σ_up s_noise ξ,   (a, b, ·) = down.ei(),   w = φ₂(h) h/c,   c = λ₋ − λ₋'
        φ₂(h) = 1 − (1 − e^(−h))/h,   λ₋ of the previous step's σ, λ₋' of the previous step's σ_down

    w = 0 on the first step and where σ_down = 0. By default σ_down, k and σ_up are those of VE on a flow too, as in
    ComfyUI, which does not keep the marginals of the flow.

    Args:
        eta: Amount of added noise: 0 gives the ODE, 1 the noise of DDPM.
        s_noise: Factor on the added noise.
        flow_noise: On a flow, use the flow's ancestral split, which keeps its marginals, instead of VE's, which ComfyUI
            uses.
    """
    D = (yield x, s.sigma).x0
    down, keep, a, b, w, up = res_coefficients(s, mem, eta, flow_noise)
    terms = [keep * a, x, keep * (b - w), D, keep * w, mem.get("D", D)]
    if eta > 0 and s_noise > 0 and not s.last.all():
        terms += [up * s_noise, noise(s)]
    return lincomb(*terms), {"D": D, "lam": s.ve.lam, "lam_down": down.lam_next}


WITHOUT = {"noise": "none", "fixed": (*NO_NOISE, "flow_noise")}

preset("res_multistep", of="res_multistep_ancestral", row=WITHOUT, eta=0.0, s_noise=0.0, flow_noise=False)


@sampler(
    "res_multistep_ancestral_cfg_pp",
    order=2,
    evals=1,
    noise="gaussian",
    need_uncond=True,
    paper="arXiv:2308.02157 Sec. 3, arXiv:2406.08070",
)
def res_multistep_ancestral_cfg_pp(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    flow_noise: bool = False,
) -> Step:
    """CFG++ form of `res_multistep_ancestral`: x + D − U in place of x, and U in place of D.

        x' = k (a (x + D − U) + (b − w) U + w U₋) + σ_up s_noise ξ

    On the first step and where σ_down = 0: x' = k (D + (x − U) σ_down/σ) + σ_up s_noise ξ. By default σ_down, k and
    σ_up are those of VE on a flow too, as in ComfyUI, which does not keep the marginals of the flow.

    Args:
        eta: Amount of added noise: 0 gives the ODE, 1 the noise of DDPM.
        s_noise: Factor on the added noise.
        flow_noise: On a flow, use the flow's ancestral split, which keeps its marginals, instead of VE's, which ComfyUI
            uses.
    """
    p = yield x, s.sigma
    down, keep, a, b, w, up = res_coefficients(s, mem, eta, flow_noise)
    # without history the guidance D − U is not scaled by a
    g = torch.where(down.last | (s.history(1) == 0), 1.0, a)
    terms = [keep * a, x, keep * g, p.x0, keep * (b - w - g), p.U, keep * w, mem.get("D", p.U)]
    if eta > 0 and s_noise > 0 and not s.last.all():
        terms += [up * s_noise, noise(s)]
    return lincomb(*terms), {"D": p.U, "lam": s.ve.lam, "lam_down": down.lam_next}


preset("res_multistep_cfg_pp", of="res_multistep_ancestral_cfg_pp", row=WITHOUT, eta=0.0, s_noise=0.0, flow_noise=False)


def res_coefficients(
    s: Span, mem: Memory, eta: float, flow_noise: bool
) -> tuple[Span, Sigma, Sigma, Sigma, Sigma, Sigma]:
    """Coefficients of the refined exponential multistep.

    Returns:
        The interval to σ_down as one of VE, then k, a, b, w and σ_up.
    """
    down, keep, up = (s if flow_noise else s.ve).ancestral(eta)
    down = down.ve
    a, b, _ = down.ei()
    zero = torch.zeros_like(a)
    c = mem["lam_down"] - mem["lam"] if mem else zero
    w = torch.where(down.last, zero, -phi_2(down.h) * safe_div(down.h, c))
    return down, keep, a, b, w, up


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
        max_stage: Number of predictions used, this step's and earlier ones.
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
