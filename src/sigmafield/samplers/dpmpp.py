"""DPM-Solver++: multistep and stochastic solvers in λ with data prediction."""

from __future__ import annotations

from typing import Literal

import torch

from sigmafield.core.arrays import Latent
from sigmafield.core.linear import lincomb, phi_2, safe_div
from sigmafield.core.memory import Memory
from sigmafield.core.parameters import NonNegative
from sigmafield.core.process import Span
from sigmafield.core.protocols import Noise, Step
from sigmafield.samplers.grids import clip_first
from sigmafield.samplers.registry import preset, sampler


@sampler("dpmpp_2m", order=2, evals=1, paper="arXiv:2211.01095 Alg. 2")
def dpmpp_2m(x: Latent, s: Span, mem: Memory, noise: Noise) -> Step:
    """DPM-Solver++(2M), in λ = −ln σ for every process.

        x' = a x + (b + w) D − w D₋,   (a, b, ·) = s.ve.ei(),   w = b h/(2 h₋)

    w = 0 on the first step, where it is Euler's method, and where σ' = 0.
    """
    D = (yield x, s.sigma).x0
    ve = s.ve
    a, b, _ = ve.ei()
    w = torch.where(s.last, 0.0, b / 2 * safe_div(ve.h, mem.get("h", torch.zeros_like(ve.h))))
    return lincomb(a, x, b + w, D, -w, mem.get("D", D)), {"D": D, "h": ve.h}


@sampler("dpmpp_2m_cfg_pp", order=2, evals=1, need_uncond=True, paper="arXiv:2211.01095 Alg. 2, arXiv:2406.08070")
def dpmpp_2m_cfg_pp(x: Latent, s: Span, mem: Memory, noise: Noise) -> Step:
    """CFG++ form of `dpmpp_2m`, in λ = −ln σ for every process.

        x' = a x + D − a U + w (D − U₋),   (a, b, ·) = s.ve.ei(),   w = b h/(2 h₋)

    w = 0 on the first step and where σ' = 0. The history holds U, as in ComfyUI.
    """
    p = yield x, s.sigma
    ve = s.ve
    a, b, _ = ve.ei()
    w = torch.where(s.last, 0.0, b / 2 * safe_div(ve.h, mem.get("h", torch.zeros_like(ve.h))))
    return lincomb(a, x, 1 + w, p.x0, -a, p.U, -w, mem.get("U", p.U)), {"U": p.U, "h": ve.h}


@sampler("dpmpp_2m_sde", order=2, evals=1, noise="brownian", grid=clip_first, paper="arXiv:2211.01095 Sec. 5")
def dpmpp_2m_sde(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    solver: Literal["midpoint", "heun"] = "midpoint",
) -> Step:
    """DPM-Solver++(2M) for the reverse SDE, in λ = ln(α/σ).

        x' = a x + (b + w) D − w D₋ + c s_noise ξ,   (a, b, c) = s.ei(η)
        w  = φ h/h₋,   φ = b/2 (midpoint)   or   α' (1 − (1 − e^(−z))/z), z = (1 + η) h (heun)

    w = 0 on the first step and where σ' = 0.

    Args:
        eta: Amount of added noise: 0 gives the ODE, 1 the full SDE.
        s_noise: Factor on the added noise.
        solver: Weight φ of the history term, under ComfyUI's names: "midpoint" is b/2, "heun" the exponential integral.
    """
    D = (yield x, s.sigma).x0
    a, b, c = s.ei(eta)
    phi = b / 2 if solver == "midpoint" else s.alpha_next * phi_2((1 + eta) * s.h)
    w = torch.where(s.last, 0.0, phi * safe_div(s.h, mem.get("h", torch.zeros_like(s.h))))
    terms = [a, x, b + w, D, -w, mem.get("D", D)]
    if eta > 0 and s_noise > 0 and not s.last.all():
        terms += [c * s_noise, noise(s)]
    return lincomb(*terms), {"D": D, "h": s.h}


preset("dpmpp_2m_sde_gpu", of="dpmpp_2m_sde", row={"noise": "brownian_device"})
preset("dpmpp_2m_sde_heun", of="dpmpp_2m_sde", solver="heun")
preset("dpmpp_2m_sde_heun_gpu", of="dpmpp_2m_sde_heun", row={"noise": "brownian_device"})


@sampler("dpmpp_3m_sde", order=2, evals=1, noise="brownian", grid=clip_first, paper="arXiv:2211.01095 App. B")
def dpmpp_3m_sde(
    x: Latent, s: Span, mem: Memory, noise: Noise, *, eta: NonNegative = 1.0, s_noise: NonNegative = 1.0
) -> Step:
    """DPM-Solver++(3M) for the reverse SDE, in λ = ln(α/σ).

        x' = a x + b D + α' (φ₂ d₁ − φ₃ d₂) + c s_noise ξ,   (a, b, c) = s.ei(η),   z = (1 + η) h
        φ₂ = 1 − (1 − e^(−z))/z,   φ₃ = φ₂/z − ½
        e₀ = (D − D₋) h/h₁,  e₁ = (D₋ − D₋₋) h/h₂,  r₀ = h₁/h,  r₁ = h₂/h
        d₁ = e₀ + (e₀ − e₁) r₀/(r₀ + r₁),   d₂ = (e₀ − e₁)/(r₀ + r₁)

    With one previous step d₁ = e₀ and d₂ = 0; on the first step and where σ' = 0 both are 0. A step with full history
    is of third order, but a whole run converges with second order, because its first steps have less history.

    Args:
        eta: Amount of added noise: 0 gives the ODE, 1 the full SDE.
        s_noise: Factor on the added noise.
    """
    D = (yield x, s.sigma).x0
    a, b, c = s.ei(eta)
    z = (1 + eta) * s.h
    p2 = torch.where(s.last, 0.0, s.alpha_next * phi_2(z))
    p3 = torch.where(s.last, 0.0, s.alpha_next * (phi_2(z) / torch.where(z == 0, 1.0, z) - 0.5))
    zero = torch.zeros_like(s.h)
    h1, h2 = mem.get("h1", zero), mem.get("h2", zero)
    k0, k1 = safe_div(s.h, h1), safe_div(s.h, h2)
    third = torch.where(k1 == 0, 0.0, safe_div(s.h, h1 + h2))  # 1/(r₀ + r₁), 0 without the older step
    bend = p2 * third * safe_div(h1, s.h) - p3 * third  # coefficient of e₀ − e₁
    w0, w1 = (p2 + bend) * k0, bend * k1
    D1 = mem.get("D1", D)
    terms = [a, x, b + w0, D, -w0 - w1, D1, w1, mem.get("D2", D)]
    if eta > 0 and s_noise > 0 and not s.last.all():
        terms += [c * s_noise, noise(s)]
    return lincomb(*terms), {"D1": D, "D2": D1, "h1": s.h, "h2": h1}


preset("dpmpp_3m_sde_gpu", of="dpmpp_3m_sde", row={"noise": "brownian_device"})
