"""DPM-Solver++: multistep and stochastic solvers in λ with data prediction."""

from __future__ import annotations

from typing import Literal

import torch

from sigmafield.grid import Span, clip_first
from sigmafield.maths import lincomb, phi_2, safe_div
from sigmafield.methods.registry import method, preset
from sigmafield.types import Latent, Memory, Noise, Step


@method("dpmpp_2m", order=2, evals=1, paper="arXiv:2211.01095 Alg. 2")
def dpmpp_2m(x: Latent, s: Span, mem: Memory, noise: Noise) -> Step:
    """DPM-Solver++(2M), in λ = −ln σ for every process.

    x' = a x + (b + w) D − w D₋,   (a, b, ·) = s.ve.ei(),   w = b h/(2 h₋)
    w  = 0 on the first step and where σ' = 0.
    """
    D = (yield x, s.sigma).x0
    ve = s.ve
    a, b, _ = ve.ei()
    w = torch.where(s.last, 0.0, b / 2 * safe_div(ve.h, mem.get("h", torch.zeros_like(ve.h))))
    return lincomb(a, x, b + w, D, -w, mem.get("D", D)), {"D": D, "h": ve.h}


@method("dpmpp_2m_sde", order=2, evals=1, noise="brownian", grid=clip_first, paper="arXiv:2211.01095 Sec. 5")
def dpmpp_2m_sde(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver: Literal["midpoint", "heun"] = "midpoint",
) -> Step:
    """DPM-Solver++(2M) for the reverse SDE, in λ = ln(α/σ).

        x' = a x + (b + w) D − w D₋ + c s_noise ξ,   (a, b, c) = s.ei(η)
        w  = φ h/h₋,   φ = b/2 (midpoint)   or   α' (1 − (1 − e^(−z))/z), z = (1 + η) h (heun)
        w  = 0 on the first step and where σ' = 0.

    eta: 0 = ODE, 1 = full SDE; any ≥ 0.
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
