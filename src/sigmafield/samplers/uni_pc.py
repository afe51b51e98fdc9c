"""UniPC, a predictor–corrector method. The state holds the predicted x, `mem` the corrected one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.grid import Grid
from sigmafield.core.linear import by_order, lincomb
from sigmafield.core.memory import Memory
from sigmafield.core.parameters import Range
from sigmafield.core.process import FROZEN, LAM_MAX, Span, unbroken
from sigmafield.core.protocols import Noise, Step
from sigmafield.core.typed import numbers, solve
from sigmafield.samplers.registry import preset, sampler


def end_above_zero(grid: Grid, params: Mapping[str, Any]) -> Grid:
    """The grid with its level 0 replaced by `end`; the runs of ComfyUI's UniPC end at 0.001."""
    return replace(grid, sigmas=torch.where(grid.sigmas == 0, params["end"], grid.sigmas))


def vp(sigma: Sigma, precise: bool) -> tuple[Sigma, Sigma, Sigma]:
    """(a, s, Λ) of σ in variance-preserving form.

        ln a = ½ ln(1/(σ² + 1)),   s = √(1 − a²),   Λ = ln a − ½ ln(1 − a²) = −ln σ, at most 80

    Args:
        sigma: Noise levels, float64.
        precise: Whether to compute in float64; otherwise with the float32 arithmetic of the reference.
    """
    if precise:
        a = (sigma**2 + 1).rsqrt()
        return a, sigma * a, -sigma.log().clamp(min=-LAM_MAX)
    log_a = 0.5 * torch.log(1 / (sigma.float() ** 2 + 1))
    rest = 1 - torch.exp(2 * log_a)
    return log_a.exp().double(), rest.sqrt().double(), (log_a - 0.5 * rest.log()).double().clamp(max=LAM_MAX)


def unipc_weights(
    levels: Sequence[tuple[Sigma, Sigma, Sigma]], order: int, corrector: bool, variant: str
) -> list[Sigma]:
    """Weights [w_t, w_0, w_1, …] of x' = a x + w_t D_t + Σ w_j D_j from levels[1] to levels[0].

    D_0 is at levels[1], D_1 at levels[2] and so on; D_t is at levels[0] and used by the corrector only. Where an
    interval of the history is frozen, the order is 1.

    Args:
        levels: (a, s, Λ) of the levels as `vp` gives them, newest first.
        order: Order of the update, 1 to 3.
        corrector: Whether the weights are those of the corrector or of the predictor.
        variant: "bh1" or "bh2", see `uni_pc`.
    """
    lam_next, lam = levels[0][2], levels[1][2]
    h = lam_next - lam
    one = torch.ones_like(h)
    frozen = h.abs() < FROZEN
    h = torch.where(frozen, one, h)
    r = [(levels[j + 1][2] - lam) / h for j in range(1, order)]
    plain = torch.zeros_like(frozen)
    for newer, older in pairwise([0 * one, *r]):
        plain = plain | ((newer - older).abs() < FROZEN)
    r = [torch.where(plain, -1.0 - j, ratio) for j, ratio in enumerate(r)]

    bh = -h if variant == "bh1" else torch.expm1(-h)
    nodes, psi = [*r, one], torch.expm1(-h) / -h - 1
    b: list[Sigma] = []
    for j in range(1, order + 1):
        b.append(math.factorial(j) * psi / bh)
        psi = psi / -h - 1 / math.factorial(j + 1)
    size = order if corrector else order - 1
    if size == 0:
        rho: list[Sigma] = []
    elif size == 1 and order == 1 + (not corrector):
        rho = [0.5 * one]
    else:
        R = torch.stack([torch.stack([node**i for node in nodes[:size]], -1) for i in range(size)], -2)
        rho = list(solve(R, torch.stack(b[:size], -1)).unbind(-1))

    w = [-bh * v for v in rho]  # coefficients of (D_j − D_0)/r_j and of D_t − D_0
    at_end = w.pop() if corrector else 0 * one
    history = [torch.where(plain, 0.0, k / ratio) for k, ratio in zip(w, r)]
    at_end = torch.where(plain, (-bh * 0.5 if corrector else 0 * one), at_end)
    first = -torch.expm1(-h) - at_end - sum(history, 0 * one)
    keep = torch.where(frozen, 0.0, 1.0)
    return [keep * at_end, keep * first, *(keep * k for k in history)]


def unipc_scale(levels: Sequence[tuple[Sigma, Sigma, Sigma]]) -> Sigma:
    """Coefficient a of the same update: σ'/σ in variance-preserving form, 1 where the interval is frozen."""
    (a_next, s_next, lam_next), (a, s, lam) = levels[:2]
    return torch.where((lam_next - lam).abs() < FROZEN, 1.0, s_next / s * a / a_next)


def coefficients(
    sigmas: Tensor, i: Tensor, have: Tensor, variant: str, precise: bool, solve_one_step: bool
) -> tuple[list[Sigma], list[Sigma]]:
    """([a, w_t, w_0, w_1, …] of the corrector, [a, w_0, w_1, …] of the predictor) of a step, or of several at once.

    Args:
        sigmas: The whole schedule [n + 1, *field].
        i: Numbers of the steps, 0-d or [steps].
        have: Earlier steps that each may use, up to 3, see `Span.history`; [*field] or [steps, *field].
        variant: As for `uni_pc`.
        precise: As for `uni_pc`.
        solve_one_step: As for `uni_pc`.
    """
    left = (len(sigmas) - 1 - i).reshape(*i.shape, *[1] * (have.ndim - i.ndim))
    top = (have + left - 1).clamp(max=3)
    alone = (top == 0) & (not solve_one_step)

    def order(k: Tensor, most: Tensor) -> Tensor:
        return torch.where(k < top, k, torch.minimum(top, most)).clamp(min=1)

    some = torch.stack([sigmas[(i + j).clamp(min=0)] for j in (1, 0, -1, -2, -3)])
    levels = list(zip(*(part.unbind() for part in vp(some, precise))))
    correct = by_order(order(have, left + 1), lambda k: unipc_weights(levels[1:], k, True, variant))
    predict = by_order(order(have + 1, left), lambda k: unipc_weights(levels, k, False, variant))[1:]
    scale = torch.where(alone, levels[1][0] / levels[0][0], unipc_scale(levels))
    return [unipc_scale(levels[1:]), *correct], [scale, *(torch.where(alone, 0.0, w) for w in predict)]


def of_all_steps(
    every: Span, variant: str, precise: bool, solve_one_step: bool
) -> Sequence[tuple[list[float], list[float]]]:
    """`coefficients` of each step of a schedule with one σ per step."""
    assert every.sigmas is not None
    steps, have = torch.arange(every.n), unbroken(every.frozen, 3)
    both = coefficients(every.sigmas, steps, have, variant, precise, solve_one_step)
    correct, predict = ([numbers(weights) for weights in terms] for terms in both)
    return [([w[i] for w in correct], [w[i] for w in predict]) for i in range(every.n)]


@sampler("uni_pc", order=2, evals=1, grid=end_above_zero, paper="arXiv:2302.04867")
def uni_pc(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    variant: Literal["bh1", "bh2"] = "bh1",
    end: Annotated[float, Range(0, 0.01)] = 0.001,
    precise: bool = False,
    solve_one_step: bool = False,
) -> Step:
    """UniPC of up to third order, in λ of VP for every process: predict, evaluate, correct with the same evaluation.

        D = D(xₚ, σ);  correct: x = a x₋ + w_t D + Σ w_j D₋ⱼ over σ₋ → σ;  predict: xₚ' = a x + Σ w_j D₋ⱼ
        w from B(h), of order min(3, n − 1), rising at the start, falling at the end; no corrector in the last step

    An update has up to 9 terms, because predictor and corrector both sum over the history.

    Args:
        variant: Function B: "bh1" is −h, "bh2" is e^(−h) − 1.
        end: Level that replaces a final 0; ComfyUI's 0.001 leaves that much noise and scales the latent of a flow by
            1/(1 − 0.001), 0 leaves none.
        precise: Compute coefficients in float64 instead of ComfyUI's float32.
        solve_one_step: With a single step, make a step of first order; ComfyUI only scales x then.
    """
    D = (yield x, s.sigma).x0
    if s.sigma.ndim:
        assert s.sigmas is not None
        i, have = torch.tensor(s.i), s.history(3)
        correct, predict = coefficients(s.sigmas, i, have, variant, precise, solve_one_step)
    else:
        correct, predict = s.of_run(of_all_steps, variant, precise, solve_one_step)
    history = [D, *(mem[f"D{j}"] for j in range(1, 4) if f"D{j}" in mem)]
    if s.i:
        x = lincomb(correct[0], mem["x"], *(v for pair in zip(correct[1:], history) for v in pair))
    terms = [v for pair in zip(predict[1:], history) for v in pair]
    return lincomb(predict[0], x, *terms), {"x": x} | {f"D{j + 1}": v for j, v in enumerate(history[:3])}


preset("uni_pc_bh2", of="uni_pc", variant="bh2")
