"""Exponential integrators: SEEDS and the refined exponential multistep."""

from __future__ import annotations

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
        flow_noise: On a flow, use the flow's ancestral split, which keeps its marginals; ComfyUI uses VE's.
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
        flow_noise: On a flow, use the flow's ancestral split, which keeps its marginals; ComfyUI uses VE's.
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
