"""DPM-Solver++ as a single-step method: two stages, ancestral or stochastic."""

from __future__ import annotations

from dataclasses import replace

import torch

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.linear import lincomb
from sigmafield.core.memory import Memory
from sigmafield.core.parameters import NonNegative, Positive
from sigmafield.core.process import Flow, Span
from sigmafield.core.protocols import Noise, Step
from sigmafield.samplers.grids import clip_first
from sigmafield.samplers.registry import preset, sampler


@sampler("dpmpp_2s_ancestral", order=2, evals=2, noise="gaussian", paper="arXiv:2211.01095 Alg. 1")
def dpmpp_2s_ancestral(
    x: Latent, s: Span, mem: Memory, noise: Noise, *, eta: NonNegative = 1.0, s_noise: NonNegative = 1.0
) -> Step:
    """Ancestral DPM-Solver++(2S): two stages to σ_down, then noise back up to σ'.

        u  = a₁ x + b₁ D,   y = a x + b D(u, σₛ),   λₛ halfway to λ_down
        a = σ_down/σ,  b = α_down − a α;   a₁, b₁ likewise for σₛ
        x' = k y + σ_up s_noise ξ,   (σ_down, k, σ_up) = s.ancestral(η)

    Where σ_down = 0, y = D. At σ = 1 of a flow, where λ = −∞, σₛ = 0.9999, as in ComfyUI.

    Args:
        eta: Amount of added noise: 0 gives the ODE, 1 the noise of DDPM.
        s_noise: Factor on the added noise.
    """
    D = (yield x, s.sigma).x0
    down, keep, up = s.ancestral(eta)
    y = D
    if not down.last.all():
        alpha, one = s.process.alpha(s.sigma), down.split(0.5)[0]
        if isinstance(s.process, Flow):
            one = replace(one, sigma_next=torch.where(s.sigma == 1, 0.9999, one.sigma_next))
        stage = lincomb(one.ratio, x, one.alpha_next - one.ratio * alpha, D)
        D2 = (yield stage, one.sigma_next).x0
        b = down.alpha_next - down.ratio * alpha
        y = lincomb(down.ratio, x, torch.where(down.last, b, 0.0), D, torch.where(down.last, 0.0, b), D2)
    if eta <= 0 or s_noise <= 0 or s.last.all():
        return lincomb(keep, y), {}
    return lincomb(keep, y, up * s_noise, noise(s)), {}


@sampler(
    "dpmpp_2s_ancestral_cfg_pp",
    order=1,
    evals=2,
    noise="gaussian",
    need_uncond=True,
    paper="arXiv:2211.01095 Alg. 1, arXiv:2406.08070",
)
def dpmpp_2s_ancestral_cfg_pp(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    same_stage: bool = False,
    flow_noise: bool = False,
) -> Step:
    """CFG++ form of `dpmpp_2s_ancestral`, in λ = −ln σ for every process.

        u  = a₁ (x + D − U) + b₁ D,   y = a (x + D − U₂) + b D₂,   x' = k y + σ_up s_noise ξ

    Where σ_down = 0, y = D. By default it combines D of the first stage with U of the second, as in ComfyUI, and for
    this reason does not converge. On a flow σ_down, k and σ_up are by default those of VE, as in ComfyUI, which does
    not keep the marginals of the flow.

    Args:
        eta: Amount of added noise: 0 gives the ODE, 1 the noise of DDPM.
        s_noise: Factor on the added noise.
        same_stage: Combine D and U of the second stage, which converges, instead of ComfyUI's D of the first with U of
            the second.
        flow_noise: On a flow, use the flow's ancestral split, which keeps its marginals; ComfyUI uses VE's.
    """
    p = yield x, s.sigma
    down, keep, up = (s if flow_noise else s.ve).ancestral(eta)
    down, y = down.ve, p.x0
    if not down.last.all():
        one = down.split(0.5)[0]
        (a1, b1, _), (a, b, _) = one.ei(), down.ei()
        q = yield lincomb(a1, x, a1 + b1, p.x0, -a1, p.U), one.sigma_next
        y = lincomb(a, x, a, q.x0 if same_stage else p.x0, -a, q.U, b, q.x0)
    if eta <= 0 or s_noise <= 0 or s.last.all():
        return lincomb(keep, y), {}
    return lincomb(keep, y, up * s_noise, noise(s)), {}


@sampler("dpmpp_sde", order=2, evals=2, noise="brownian", grid=clip_first, paper="arXiv:2211.01095 Sec. 5")
def dpmpp_sde(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    r: Positive = 0.5,
) -> Step:
    """SDE-DPM-Solver++ in two stages in λ = ln(α/σ), each with an ancestral split of the ratio σ/α.

        u  = a₁ x + b₁ D₁ + c₁ s_noise ξ(σ, σ₁),   λ₁ = λ + r h
        x' = a x + b ((1 − f) D₁ + f D(u, σ₁)) + c s_noise ξ(σ, σ'),   f = 1/(2 r)
        a = (α'/α) σ̃_down/σ̃,  b = α' (1 − σ̃_down/σ̃),  c = α' σ̃_up   of σ̃ = σ/α → σ'/α'

    The intervals of the two noises overlap, so on a Brownian path the noises are correlated. Where σ' = 0 the result is
    D₁.

    Args:
        eta: Amount of added noise: 0 gives the ODE, 1 the noise of DDPM.
        s_noise: Factor on the added noise.
        r: Location of the second stage as a fraction of the step in λ; 1 is at σ'.
    """
    D1 = (yield x, s.sigma).x0
    if s.last.all():
        return D1, {}
    one, noisy = s.split(r)[0], eta > 0 and s_noise > 0
    a, b, c = tilde_ancestral(one, eta)
    kick = [c * s_noise, noise(one)] if noisy else []
    D2 = (yield lincomb(a, x, b, D1, *kick), one.sigma_next).x0
    a, b, c = tilde_ancestral(s, eta)
    kick = [c * s_noise, noise(s)] if noisy else []
    f = torch.where(s.last, 0.0, b / (2 * r))
    return lincomb(a, x, b - f, D1, f, D2, *kick), {}


preset("dpmpp_sde_gpu", of="dpmpp_sde", row={"noise": "brownian_device"})


def tilde_ancestral(s: Span, eta: float) -> tuple[Sigma, Sigma, Sigma]:
    """Coefficients (a, b, c) of x' = a x + b D + c ξ by the ancestral split of the noise-to-signal ratio σ/α."""
    alpha = s.process.alpha(s.sigma)
    down, _, up = s.scaled.ancestral(eta)
    return s.alpha_next / alpha * down.ratio, s.alpha_next * (1 - down.ratio), s.alpha_next * up
