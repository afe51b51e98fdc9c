"""SA-Solver: stochastic Adams predictor–corrector. The state holds the predicted x, `mem` the corrected one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.linear import by_order, lincomb
from sigmafield.core.memory import Memory
from sigmafield.core.parameters import NonNegative, Range, Share
from sigmafield.core.process import FROZEN, Span
from sigmafield.core.protocols import Noise, Step
from sigmafield.core.typed import solve
from sigmafield.samplers.grids import clip_first
from sigmafield.samplers.registry import preset, sampler


def adams_weights(s: Span, lams: Sequence[Sigma], kappa: Sigma) -> list[Sigma]:
    """Weights of predictions at the nodes, exact for D that is a polynomial in λ.

        b_j = α' κ ∫ e^(−κ(λ' − λ)) L_j(λ) dλ over the interval, L_j the Lagrange basis on the nodes

    The weights sum to α' (1 − e^(−κh)). They solve Σ_j b_j u_j^p = m_p with u = (λ − λ')/h, where the moments follow
    from integration by parts: m_0 = 1 − e^(−κh), m_p = −(−1)^p e^(−κh) − (p/κh) m_(p−1). Where an interval between
    nodes is frozen or σ' = 0, the newest prediction gets the whole sum.

    Args:
        s: Interval to integrate over.
        lams: λ of the nodes, newest first.
        kappa: κ = 1 + τ².

    Returns:
        One weight per node, newest first.
    """
    total = s.alpha_next * -torch.expm1(-kappa * s.h)
    h = torch.where(s.frozen, 1.0, s.h)
    u = [(lam - s.lam_next) / h for lam in lams]
    plain = s.frozen | s.last
    for newer, older in pairwise(u):
        plain = plain | ((newer - older).abs() * h.abs() < FROZEN)
    u = [torch.where(plain, -1.0 - j, node) for j, node in enumerate(u)]
    decay = (-kappa * h).exp()
    moments = [1 - decay]
    for p in range(1, len(lams)):
        moments.append(-((-1) ** p) * decay - p / (kappa * h) * moments[-1])
    powers = torch.stack([torch.stack([node**p for node in u], -1) for p in range(len(lams))], -2)
    b = s.alpha_next[..., None] * solve(powers, torch.stack(moments, -1))
    return [torch.where(plain, total if j == 0 else 0.0, w) for j, w in enumerate(b.unbind(-1))]


def simple_weights(s: Span, lams: Sequence[Sigma], kappa: Sigma, corrector: bool) -> list[Sigma]:
    """Second-order weights from ½ κ h alone, as in diffusers' UniPC, instead of the exact integral.

    Args:
        s: Interval to integrate over.
        lams: λ of the two nodes, newest first.
        kappa: κ = 1 + τ².
        corrector: Whether the weights are those of the corrector or of the predictor.
    """
    total = s.alpha_next * -torch.expm1(-kappa * s.h)
    half = s.alpha_next * kappa * s.h / 2
    if corrector:
        return [half, total - half]
    gap = lams[1] - lams[0]
    old = torch.where(gap.abs() < FROZEN, 0.0, half * s.h / torch.where(gap == 0, 1.0, gap))
    return [total - old, old]


def moved(
    x: Latent,
    history: Sequence[Latent],
    s: Span,
    lams: Sequence[Sigma],
    eta: Sigma,
    order: Tensor,
    corrector: bool | None,
) -> list[Sigma | Latent]:
    """Terms of a x + Σ b_j D_j over an interval, with the order of each position.

    Args:
        x: Latent at the start of the interval.
        history: Predictions, newest first.
        s: The interval.
        lams: λ of the predictions, newest first.
        eta: τ².
        order: Order of each position, of σ's shape.
        corrector: Which simple weights to use at order 2, the corrector's or the predictor's; None for the exact ones.

    Returns:
        Alternating coefficients and latents for `lincomb`.
    """
    kappa = 1 + eta

    def weights(k: int) -> list[Sigma]:
        if corrector is not None and k == 2:
            return simple_weights(s, lams[:2], kappa, corrector)
        return adams_weights(s, lams[:k], kappa)

    return [s.ei(eta)[0], x, *(v for pair in zip(by_order(order, weights), history) for v in pair)]


@sampler("sa_solver", order=4, evals=1, noise="gaussian", grid=clip_first, paper="arXiv:2309.05019")
def sa_solver(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    eta: NonNegative = 1.0,
    sde_start_percent: Share = 0.2,
    sde_end_percent: Share = 0.8,
    s_noise: NonNegative = 1.0,
    predictor_order: Annotated[int, Range(1, 6)] = 3,
    corrector_order: Annotated[int, Range(0, 6)] = 4,
    use_pece: bool = False,
    simple_order_2: bool = False,
) -> Step:
    """SA-Solver: Adams predictor–corrector for the SDE with τ times the noise, data prediction, in λ = ln(α/σ).

        correct: x = a x₋ + Σ b_j D_j + c s_noise ξ₋ over σ₋ → σ, D_j up to D(xₚ, σ) itself
        predict: xₚ' = a x + Σ b_j D_j + c s_noise ξ over σ → σ'
        (a, ·, c) = s.ei(τ²),   b_j = α' κ ∫ e^(−κ(λ' − λ)) L_j(λ) dλ,   κ = 1 + τ²

    τ = eta where σ' lies between the network's levels at sde_start_percent and sde_end_percent of the way through
    sampling, and 0 elsewhere. The corrector reuses the ξ of the predictor before it. Orders rise at the start and, if
    the run ends at 0, fall at the end. Where σ' = 0 the result is D (with use_pece, D of the corrected x).

    The weights here are exact; the reference solves for them in float32, which gives it errors of 2e-5 at 20 steps and
    4e-4 at 50 (default orders). An update has up to 13 terms, because predictor and corrector both sum over the
    history: this sampler moves the most memory of all.

    Args:
        eta: Amount of noise τ within the range of the two percents: 0 gives the ODE, 1 the full SDE.
        sde_start_percent: Share of the way through sampling where noise starts.
        sde_end_percent: Share of the way through sampling where noise ends.
        s_noise: Factor on the added noise.
        predictor_order: Largest order of the predictor.
        corrector_order: Largest order of the corrector; 0 does not correct.
        use_pece: Evaluate again after correcting, which doubles the evaluations.
        simple_order_2: Use the simpler second-order weights of diffusers' UniPC.
    """
    kept = max(predictor_order, corrector_order)
    D = (yield x, s.sigma).x0
    history = [D, *(mem[f"D{j}"] for j in range(1, kept) if f"D{j}" in mem)]
    left = s.n - s.i
    falls = (s.at(left - 1).sigma_next == 0).all()
    have = s.history(len(history) - 1) + 1
    P = have.clamp(max=min(predictor_order, max(left - 1, 1)) if falls else predictor_order)
    C = have.clamp(max=min(corrector_order, left) if falls else corrector_order)
    start, end = (s.sigma_at(sde_start_percent), s.sigma_at(sde_end_percent)) if eta else (0.0, 0.0)

    def tau_squared(sigma: Sigma) -> Sigma:
        return torch.where((sigma <= start) & (sigma >= end), eta**2, 0.0).double()

    lams = [s.at(-j).lam for j in range(len(history))]
    if s.i and corrector_order and (use_pece or not s.last.all()):
        simple = True if simple_order_2 else None
        terms = moved(mem["x"], history, s.at(-1), lams, tau_squared(s.sigma), C, simple)
        x = lincomb(*terms, *([1.0, mem["kick"]] if "kick" in mem else []))
        if use_pece:
            history[0] = (yield x, s.sigma).x0
    if s.last.all():
        return history[0], {}
    memory = {"x": x} | {f"D{j + 1}": v for j, v in enumerate(history[: kept - 1])}
    eta_now = tau_squared(s.sigma_next)
    terms = moved(x, history, s, lams, eta_now, P, False if simple_order_2 else None)
    if s_noise > 0 and (eta_now > 0).any():
        memory["kick"] = lincomb(s_noise * s.ei(eta_now)[2], noise(s))
        terms += [1.0, memory["kick"]]
    return lincomb(*terms), memory


preset("sa_solver_pece", of="sa_solver", row={"evals": 2}, use_pece=True)
