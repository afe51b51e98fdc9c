"""First-order samplers: Euler's method, its ancestral and CFG++ forms, and their equivalents in other coordinates."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated

import torch

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.linear import lincomb
from sigmafield.core.memory import Memory
from sigmafield.core.parameters import NonNegative, Range
from sigmafield.core.process import Flow, Span
from sigmafield.core.protocols import Noise, Step
from sigmafield.samplers.registry import Params, preset, sampler


def churn(
    x: Latent, s: Span, noise: Noise, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float, flow_noise: bool
) -> tuple[Latent, Span]:
    """Raise the noise level before a step, arXiv:2206.00364 Alg. 2.

        σ̂ = (1 + γ) k σ,   x̂ = k x + √(σ̂² − (k σ)²) s_noise ξ,   γ = min(s_churn/n, √2 − 1) on [s_tmin, s_tmax]

    By default k = 1, which does not keep the marginals of a flow. With flow_noise, k = 1/(1 + γ σ) on a flow, so that
    the ratio σ/α grows by 1 + γ. No noise is drawn if s_churn = 0 or σ is outside the window.

    Args:
        x: Latent at σ.
        s: Interval from σ.
        noise: Source of ξ.
        s_churn: Total amount of noise over the run.
        s_tmin: Smallest σ at which noise is added.
        s_tmax: Largest σ at which noise is added.
        s_noise: Factor on the added noise.
        flow_noise: Whether to keep the marginals of a flow.

    Returns:
        x̂ and the interval from σ̂.
    """
    if s_churn <= 0:
        return x, s
    inside = (s_tmin <= s.sigma) & (s.sigma <= s_tmax)
    if not inside.any():
        return x, s
    gamma = torch.where(inside, torch.full_like(s.sigma, min(s_churn / s.n, 2**0.5 - 1)), 0.0)
    keep = 1 / (1 + gamma * s.sigma) if flow_noise and isinstance(s.process, Flow) else torch.ones_like(gamma)
    hat = (1 + gamma) * keep * s.sigma
    return lincomb(keep, x, s_noise * (hat**2 - (keep * s.sigma) ** 2).sqrt(), noise(s)), replace(s, sigma=hat)


def churns(params: Params) -> bool:
    """Whether churn adds noise with these parameters."""
    return params["s_churn"] > 0


@sampler("euler", order=1, evals=1, noise="churn", noisy=churns, paper="arXiv:2206.00364 Alg. 2")
def euler(
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
    """Euler's method for dx/dσ = (x − D)/σ, with optional churn.

        x' = (σ'/σ̂) x̂ + (1 − σ'/σ̂) D(x̂, σ̂)

    x̂ and σ̂ are x and σ with the churn noise added, see `churn`. Where σ' = 0 the result is D.

    Args:
        s_churn: Total amount of noise added over the run; 0 adds none.
        s_tmin: Smallest σ at which noise is added.
        s_tmax: Largest σ at which noise is added.
        s_noise: Factor on the added noise.
        flow_noise: On a flow, add noise that keeps the flow's marginals; ComfyUI adds VE's noise.
    """
    x, s = churn(x, s, noise, s_churn, s_tmin, s_tmax, s_noise, flow_noise)
    D = (yield x, s.sigma).x0
    return lincomb(s.ratio, x, 1 - s.ratio, D), {}


preset("ddim", of="euler", row={"paper": "arXiv:2010.02502"})


@sampler("euler_ancestral", order=1, evals=1, noise="gaussian", paper="arXiv:2010.02502 eq. 12")
def euler_ancestral(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    renoise_from_zero: bool = False,
) -> Step:
    """Ancestral Euler: Euler's method to σ_down, then noise back up to σ'.

        x' = k ((σ_down/σ) x + (1 − σ_down/σ) D) + σ_up s_noise ξ,   (σ_down, k, σ_up) = s.ancestral(η)

    Where σ' = 0 the result is D. If η is so large that σ_down = 0, the result is D without noise, although σ' > 0, and
    on a flow σ_down may become negative; both as in ComfyUI.

    Args:
        eta: Amount of added noise: 0 gives the ODE, 1 the noise of DDPM.
        s_noise: Factor on the added noise.
        renoise_from_zero: Keep σ_down at 0 or above, and where it is 0 add noise up to σ', unlike ComfyUI.
    """
    D = (yield x, s.sigma).x0
    down, keep, up = s.ancestral(eta, below_zero=not renoise_from_zero)
    terms = [keep * down.ratio, x, keep * (1 - down.ratio), D]
    without = s.last if renoise_from_zero else down.last
    if eta > 0 and s_noise > 0 and not without.all():
        terms += [torch.where(without, 0.0, up * s_noise), noise(s)]
    return lincomb(*terms), {}


@sampler("ddpm", order=1, evals=1, noise="gaussian", paper="arXiv:2006.11239 eq. 7")
def ddpm(x: Latent, s: Span, mem: Memory, noise: Noise, *, flow_noise: bool = False) -> Step:
    """DDPM: samples the posterior of the ancestral process.

        x' = (σ'/σ)² x + (1 − (σ'/σ)²) D + (σ'/σ) √(σ² − σ'²) ξ

    Where σ' = 0 the result is D. On a flow the same update is used, as in ComfyUI; there it does not keep the
    marginals.

    Args:
        flow_noise: On a flow, use x/α and σ/α in place of x and σ, which keeps the flow's marginals.
    """
    s = s if flow_noise else s.ve
    D = (yield x, s.sigma).x0
    k, c = scaled_split(s, 1.0)
    terms = [k, x, s.alpha_next - k * s.process.alpha(s.sigma), D]
    if not s.last.all():
        terms += [c, noise(s)]
    return lincomb(*terms), {}


@sampler("lcm", order=1, evals=1, noise="gaussian", paper="arXiv:2310.04378 Alg. 3")
def lcm(x: Latent, s: Span, mem: Memory, noise: Noise) -> Step:
    """Consistency sampling: takes the predicted clean latent and adds entirely new noise.

        x' = α' D + σ' ξ

    Where σ' = 0 the result is D.
    """
    D = (yield x, s.sigma).x0
    terms = [s.alpha_next, D]
    if not s.last.all():
        terms += [s.sigma_next, noise(s)]
    return lincomb(*terms), {}


@sampler(
    "euler_ancestral_cfg_pp", order=1, evals=1, noise="gaussian", need_uncond=True, paper="arXiv:2406.08070 Alg. 2"
)
def euler_ancestral_cfg_pp(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    keep_first_noise: bool = False,
) -> Step:
    """CFG++ form of `euler_ancestral`: the clean latent is the guided one, its noise the unconditional one.

        x' = α' (D + σ̃_down (x − α U)/σ + σ̃_up s_noise ξ),   split of σ/α → σ'/α'

    Where σ' = 0 the result is D. At σ = 1 of a flow, all noise is replaced for any η > 0, as in ComfyUI.

    Args:
        eta: Amount of added noise: 0 gives the ODE, 1 the noise of DDPM.
        s_noise: Factor on the added noise.
        keep_first_noise: At σ = 1 of a flow, keep √(1 − η²) of the noise (none if η ≥ 1), which is the limit of the
            split for σ → 1.
    """
    p = yield x, s.sigma
    k, c = scaled_split(s, eta, keep_first_noise)
    terms = [k, x, s.alpha_next, p.x0, -k * s.process.alpha(s.sigma), p.U]
    if eta > 0 and s_noise > 0 and not s.last.all():
        terms += [c * s_noise, noise(s)]
    return lincomb(*terms), {}


def scaled_split(s: Span, eta: float, limit: bool = False) -> tuple[Sigma, Sigma]:
    """Ancestral split of σ/α → σ'/α' for x/α: the coefficients of x' = α' D + k (x − α D) + c ξ.

    Args:
        s: Interval of the step.
        eta: Amount of noise.
        limit: Where σ/α is infinite, use the limit σ̃_up = min(η, 1) σ'/α'; otherwise all noise is new there for any η
            > 0.

    Returns:
        The coefficients (k, c).
    """
    tilde = s.scaled
    down, _, up = tilde.ancestral(eta)
    low = down.sigma_next
    if limit:
        new = min(eta, 1.0)
        up = torch.where(tilde.sigma.isinf(), new * tilde.sigma_next, up)
        low = torch.where(tilde.sigma.isinf(), (1 - new**2) ** 0.5 * tilde.sigma_next, low)
    return s.alpha_next * low / torch.where(s.sigma == 0, 1.0, s.sigma), s.alpha_next * up


NO_NOISE = ("eta", "s_noise")
"""Parameters that are fixed where a sampler without noise is a preset of one with noise."""

preset(
    "euler_cfg_pp",
    of="euler_ancestral_cfg_pp",
    row={"noise": "none", "fixed": (*NO_NOISE, "keep_first_noise")},
    eta=0.0,
    s_noise=0.0,
    keep_first_noise=False,
)


@sampler("euler_pp", order=1, evals=1, need_uncond=True, paper="arXiv:2406.08070")
def euler_pp(x: Latent, s: Span, mem: Memory, noise: Noise) -> Step:
    """Another CFG++ form of Euler's method, whose slope is taken relative to U.

        x' = x + (σ' − σ) (x − 2 D + U)/σ

    It is Euler's method for the prediction 2 D − U, so where σ' = 0 the result is 2 D − U instead of D.
    """
    p = yield x, s.sigma
    return lincomb(s.ratio, x, 2 * (1 - s.ratio), p.x0, s.ratio - 1, p.U), {}


@sampler("gradient_estimation", order=1, evals=1, paper="arXiv:2306.04848 Alg. 2")
def gradient_estimation(x: Latent, s: Span, mem: Memory, noise: Noise, *, ge_gamma: float = 2.0) -> Step:
    """Gradient estimation: Euler's method with a slope extrapolated from the previous one.

        x' = x + (σ' − σ) (d + w (d − d₋)),   d = (x − D)/σ,   w = γ − 1

    w = 0 on the first step and where σ' = 0; in the latter case the result is D.

    Args:
        ge_gamma: Extrapolation factor γ: 1 is Euler's method, 2 changes the slope once more by as much as it changed
            since the previous step.
    """
    D = (yield x, s.sigma).x0
    d, k = slope(x, s, D), estimation_weight(s, ge_gamma)
    return lincomb(s.ratio, x, 1 - s.ratio, D, k, d, -k, mem.get("d", d)), {"d": d}


@sampler("gradient_estimation_cfg_pp", order=1, evals=1, need_uncond=True, paper="arXiv:2306.04848, arXiv:2406.08070")
def gradient_estimation_cfg_pp(x: Latent, s: Span, mem: Memory, noise: Noise, *, ge_gamma: float = 2.0) -> Step:
    """CFG++ form of `gradient_estimation`.

        x' = D + σ' d + (σ' − σ) w (d − d₋),   d = (x − U)/σ,   w = γ − 1

    w = 0 on the first step and where σ' = 0; in the latter case the result is D.

    Args:
        ge_gamma: Extrapolation factor γ: 1 is Euler's method, 2 changes the slope once more by as much as it changed
            since the previous step.
    """
    p = yield x, s.sigma
    d, k = slope(x, s, p.U), estimation_weight(s, ge_gamma)
    return lincomb(1.0, p.x0, s.sigma_next + k, d, -k, mem.get("d", d)), {"d": d}


def estimation_weight(s: Span, ge_gamma: float) -> Sigma:
    """(σ' − σ) w of gradient estimation: 0 without history and where σ' = 0."""
    return torch.where(s.last | (s.history(1) == 0), 0.0, (s.sigma_next - s.sigma) * (ge_gamma - 1))


def slope(x: Latent, s: Span, D: Latent) -> Latent:
    """dx/dσ = (x − D)/σ, and 0 where σ = 0."""
    per_sigma = torch.where(s.sigma == 0, 0.0, 1 / torch.where(s.sigma == 0, 1.0, s.sigma))
    return lincomb(per_sigma, x, -per_sigma, D)
