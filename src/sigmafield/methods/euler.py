"""First-order methods: Euler's, its ancestral and CFG++ forms, and what they become in other coordinates."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from sigmafield.grid import VE, Span
from sigmafield.maths import lincomb
from sigmafield.methods.registry import method, preset
from sigmafield.types import Latent, Memory, Noise, Sigma, Step


def churn(
    x: Latent, s: Span, noise: Noise, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float
) -> tuple[Latent, Span]:
    """(x̂, the interval from σ̂): raise the noise level before a step, arXiv:2206.00364 Alg. 2.

        σ̂ = (1 + γ) σ,   x̂ = x + √(σ̂² − σ²) s_noise ξ,   γ = min(s_churn/n, √2 − 1) on [s_tmin, s_tmax]

    s_churn = 0, or a σ outside the window, draws nothing.
    """
    if s_churn <= 0:
        return x, s
    inside = (s_tmin <= s.sigma) & (s.sigma <= s_tmax)
    if not inside.any():
        return x, s
    gamma = torch.where(inside, min(s_churn / s.n, 2**0.5 - 1), 0.0)
    hat = (1 + gamma) * s.sigma
    return lincomb(1.0, x, s_noise * (hat**2 - s.sigma**2).sqrt(), noise(s)), replace(s, sigma=hat)


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
    x, s = churn(x, s, noise, s_churn, s_tmin, s_tmax, s_noise)
    D = (yield x, s.sigma).x0
    return lincomb(s.ratio, x, 1 - s.ratio, D), {}


preset("ddim", of="euler", row={"paper": "arXiv:2010.02502"})


@method("euler_ancestral", order=1, evals=1, noise="gaussian", paper="arXiv:2010.02502 eq. 12")
def euler_ancestral(x: Latent, s: Span, mem: Memory, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0) -> Step:
    """Euler's step to σ_down, then noise back up to σ'.

        x' = k ((σ_down/σ) x + (1 − σ_down/σ) D) + σ_up s_noise ξ,   (σ_down, k, σ_up) = s.ancestral(η)

    Where σ_down = 0 the result is D, without noise: with η so large that all is noise, as ComfyUI does.
    """
    D = (yield x, s.sigma).x0
    down, keep, up = s.ancestral(eta)
    terms = [keep * down.ratio, x, keep * (1 - down.ratio), D]
    if eta > 0 and s_noise > 0 and not down.last.all():
        terms += [torch.where(down.last, 0.0, up * s_noise), noise(s)]
    return lincomb(*terms), {}


@method("ddpm", order=1, evals=1, noise="gaussian", paper="arXiv:2006.11239 eq. 7")
def ddpm(x: Latent, s: Span, mem: Memory, noise: Noise) -> Step:
    """The posterior of DDPM, in VE whatever the process (on a flow, as in ComfyUI, marginals are not kept).

    x' = (σ'/σ)² x + (1 − (σ'/σ)²) D + (σ'/σ) √(σ² − σ'²) ξ
    """
    return (yield from euler_ancestral(x, s.ve, mem, noise))


@method("lcm", order=1, evals=1, noise="gaussian", paper="arXiv:2310.04378 Alg. 3")
def lcm(x: Latent, s: Span, mem: Memory, noise: Noise) -> Step:
    """Consistency sampling: all the noise anew.

    x' = α' D + σ' ξ
    """
    D = (yield x, s.sigma).x0
    terms = [s.alpha_next, D]
    if not s.last.all():
        terms += [s.sigma_next, noise(s)]
    return lincomb(*terms), {}


@method("euler_ancestral_cfg_pp", order=1, evals=1, noise="gaussian", need_uncond=True, paper="arXiv:2406.08070 Alg. 2")
def euler_ancestral_cfg_pp(
    x: Latent, s: Span, mem: Memory, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Step:
    """CFG++: the clean latent is the guided one, the noise in it the unconditional one.

        x' = α' (D + σ̃_down (x − α U)/σ + σ̃_up s_noise ξ),   split of σ/α → σ'/α'

    Where σ' = 0 the result is D. On a flow at σ = 1 the first step noises completely anew, as ComfyUI's does.
    """
    p = yield x, s.sigma
    alpha, alpha_next = s.process.alpha(s.sigma), s.alpha_next
    tilde = Span(s.sigma / alpha, s.sigma_next / alpha_next, VE(), s.i, s.n)
    down, _, up = tilde.ancestral(eta)
    k = alpha_next * down.sigma_next / torch.where(s.sigma == 0, 1.0, s.sigma)
    terms = [k, x, alpha_next, p.x0, -k * alpha, p.U]
    if eta > 0 and s_noise > 0 and not s.last.all():
        terms += [alpha_next * up * s_noise, noise(s)]
    return lincomb(*terms), {}


preset("euler_cfg_pp", of="euler_ancestral_cfg_pp", row={"noise": "none"}, eta=0.0, s_noise=0.0)


@method("euler_pp", order=1, evals=1, need_uncond=True, paper="arXiv:2406.08070")
def euler_pp(x: Latent, s: Span, mem: Memory, noise: Noise) -> Step:
    """Another CFG++ Euler: the slope is taken away from U.

        x' = x + (σ' − σ) (x − 2 D + U)/σ

    Where σ' = 0 the result is 2 D − U, not D, as in ComfyUI.
    """
    p = yield x, s.sigma
    return lincomb(s.ratio, x, 2 * (1 - s.ratio), p.x0, s.ratio - 1, p.U), {}


@method("gradient_estimation", order=1, evals=1, paper="arXiv:2306.04848 Alg. 2")
def gradient_estimation(x: Latent, s: Span, mem: Memory, noise: Noise, *, ge_gamma: float = 2.0) -> Step:
    """Euler's method with the slope extrapolated from the last one.

        x' = x + (σ' − σ) (d + w (d − d₋)),   d = (x − D)/σ,   w = γ − 1

    w = 0 on the first step and where σ' = 0: there the result is D.
    """
    D = (yield x, s.sigma).x0
    d, k = slope(x, s, D), estimation_weight(s, ge_gamma)
    return lincomb(s.ratio, x, 1 - s.ratio, D, k, d, -k, mem.get("d", d)), {"d": d}


@method("gradient_estimation_cfg_pp", order=1, evals=1, need_uncond=True, paper="arXiv:2306.04848, arXiv:2406.08070")
def gradient_estimation_cfg_pp(x: Latent, s: Span, mem: Memory, noise: Noise, *, ge_gamma: float = 2.0) -> Step:
    """CFG++ form of `gradient_estimation`.

        x' = D + σ' d + (σ' − σ) w (d − d₋),   d = (x − U)/σ,   w = γ − 1

    w = 0 on the first step and where σ' = 0: there the result is D.
    """
    p = yield x, s.sigma
    d, k = slope(x, s, p.U), estimation_weight(s, ge_gamma)
    return lincomb(1.0, p.x0, s.sigma_next + k, d, -k, mem.get("d", d)), {"d": d}


def estimation_weight(s: Span, ge_gamma: float) -> Sigma:
    """(σ' − σ) w of gradient estimation, 0 without history and where σ' = 0."""
    return torch.where(s.last | (s.history(1) == 0), 0.0, (s.sigma_next - s.sigma) * (ge_gamma - 1))


def slope(x: Latent, s: Span, D: Latent) -> Latent:
    """dx/dσ = (x − D)/σ, and 0 where σ = 0."""
    per_sigma = torch.where(s.sigma == 0, 0.0, 1 / torch.where(s.sigma == 0, 1.0, s.sigma))
    return lincomb(per_sigma, x, -per_sigma, D)
