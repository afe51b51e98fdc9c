"""DPM-Solver as a single-step method: with adaptive step size, and with a given number of evaluations."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.grid import Grid
from sigmafield.core.linear import lincomb
from sigmafield.core.memory import Memory
from sigmafield.core.parameters import NonNegative, Positive, Share
from sigmafield.core.process import Span
from sigmafield.core.protocols import Noise, Pred, Step
from sigmafield.core.typed import numbers
from sigmafield.samplers.grids import ends
from sigmafield.samplers.registry import Pace, sampler

END = 1e-5
"""Distance in λ within which the end of the run counts as reached."""


def reached(mem: Memory, s: Span) -> bool:
    """Whether `dpm_adaptive` has ended: before its first attempt, whether its interval is empty."""
    return bool(mem.get("done", s.n == 1 and s.ve.h <= END))


def travelled(mem: Memory, s: Span) -> float:
    """Share of the way in λ that `dpm_adaptive` has gone."""
    return float((mem.get("lam", float(s.ve.lam)) - s.ve.lam) / s.ve.h.clamp(min=END))


@sampler(
    "dpm_adaptive",
    stops_early=True,
    order=3,
    evals=3,
    noise="gaussian",
    pace=Pace(reached, travelled),
    linear=False,
    grid=ends,
    paper="arXiv:2206.00927 App. C",
)
def dpm_adaptive(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    order: Literal[2, 3] = 3,
    rtol: NonNegative = 0.05,
    atol: Positive = 0.0078,
    h_init: Positive = 0.05,
    pcoeff: NonNegative = 0.0,
    icoeff: NonNegative = 1.0,
    dcoeff: NonNegative = 0.0,
    accept_safety: Share = 0.81,
    eta: NonNegative = 0.0,
    s_noise: NonNegative = 1.0,
    flow_noise: bool = False,
    denoise_to_zero: bool = False,
) -> Step:
    """DPM-Solver-12 or -23 with an adaptive step size: one call is one attempt, s is the whole run, λ = −ln σ.

        err = rms((low − high)/max(atol, rtol max(|low|, |x₋|)))
        f   = 1 + atan(e₀^b₁ e₁^b₂ e₂^b₃ − 1),  eₖ = 1/err of this and the last two accepted attempts
        accept iff f ≥ accept_safety;  h ← f h;   (b₁, b₂, b₃) = (P+I+D, −(P+2D), D)/p

    The step size is set by a PID controller (P, I, D), with p = order, or 1.5 if η > 0. The run ends at the last σ
    above 0, as in ComfyUI, so x keeps that much noise unless denoise_to_zero is set. The error is taken over the whole
    batch. Reading it is the only time that a sampler waits for the device.

    Args:
        order: Order of the higher of the two embedded solvers.
        rtol: Relative tolerance of the error.
        atol: Absolute tolerance of the error, in units of the latent.
        h_init: First step size in λ.
        pcoeff: Coefficient P (proportional) of the step-size controller.
        icoeff: Coefficient I (integral) of the step-size controller, by default the only one used.
        dcoeff: Coefficient D (derivative) of the step-size controller.
        accept_safety: Smallest step-size factor f at which an attempt is accepted; 0 accepts every attempt.
        eta: Amount of noise added after each accepted attempt: 0 gives the ODE, 1 ancestral noise.
        s_noise: Factor on the added noise.
        flow_noise: On a flow, add the flow's noise; ComfyUI adds VE's noise.
        denoise_to_zero: Evaluate once more at the last σ above 0 and return D.
    """
    ve, goes_on = s.ve, s.n > 1
    end = float(ve.lam_next)
    lam, h = mem.get("lam", float(ve.lam)), mem.get("h", h_init)
    if lam >= end - END:  # only the last evaluation remains
        return (yield x, ve.sigma_next).x0, {"lam": lam, "done": True}
    x_low = mem.get("x_low", x)
    stop = min(end, lam + h)
    span = replace(s if flow_noise else ve, sigma=_sigma(lam), sigma_next=_sigma(stop))
    down, keep, up = descend(span, ve.sigma_next, eta)
    low, high = yield from embedded_pair(x, stretch(down), order)
    rtol, atol = numbers(torch.tensor([rtol, atol], dtype=torch.float32))  # ComfyUI rounds them to float32
    scale = torch.maximum(low.abs(), x_low.abs()).mul_(rtol).clamp_(min=atol)
    err = float((low - high).div_(scale).square_().mean().sqrt())

    p, inv = (1.5 if eta else order), 1 / (err + 1e-8)
    e = (inv, *mem.get("inv", (inv, inv)))
    b = ((pcoeff + icoeff + dcoeff) / p, -(pcoeff + 2 * dcoeff) / p, dcoeff / p)
    power = sum(k * math.log(max(v, 1e-300)) for v, k in zip(e, b))
    f = 1 + math.atan(math.exp(min(power, 700)) - 1)  # larger powers would overflow
    if f < accept_safety:
        return x, {"lam": lam, "h": h * f, "inv": e[1:], "x_low": x_low, "done": False}
    x = lincomb(keep, high, up * s_noise, noise(span.ve)) if eta else high
    done = not goes_on and stop >= end - END
    return x, {"lam": stop, "h": h * f, "inv": e[:2], "x_low": low, "done": done}


def descend(s: Span, end: Sigma, eta: float) -> tuple[Span, Sigma, Sigma]:
    """Ancestral split of an interval, with σ_down not below the end of the run.

    Args:
        s: Interval to split.
        end: σ at which the run ends.
        eta: Amount of noise; 0 keeps the interval.

    Returns:
        The interval to σ_down as one of VE, the factor k and σ_up of x' = k y + σ_up ξ.
    """
    if not eta:
        return s.ve, torch.ones_like(s.sigma), torch.zeros_like(s.sigma)
    down, _, _ = s.ancestral(eta)
    down = replace(down, sigma_next=torch.maximum(down.sigma_next, end))
    keep = s.alpha_next / down.alpha_next
    return down.ve, keep, (s.sigma_next**2 - (keep * down.sigma_next) ** 2).clamp(min=0).sqrt()


class Stretch(NamedTuple):
    """Interval from t to t' = t + h in t = −ln σ; everything derived from it is computed in its dtype."""

    t: Tensor
    t_next: Tensor
    h: Tensor

    @property
    def sigma(self) -> Tensor:
        return (-self.t).exp()

    @property
    def sigma_next(self) -> Tensor:
        return (-self.t_next).exp()

    def part(self, r: float) -> Stretch:
        """The first part of the interval, a fraction r of it, 0 < r ≤ 1."""
        return Stretch(self.t, self.t + r * self.h, r * self.h)


def stretch(s: Span, dtype: torch.dtype = torch.float64) -> Stretch:
    """The interval in t = −ln σ, with its ends rounded to a dtype."""
    t, t_next = s.ve.lam.to(dtype), s.ve.lam_next.to(dtype)
    return Stretch(t, t_next, t_next - t)


def embedded_pair(x: Latent, s: Stretch, order: int) -> Generator[tuple[Latent, Sigma], Pred, tuple[Latent, Latent]]:
    """DPM-Solver-1 and -2, or -2 and -3, over one interval with shared evaluations; E = expm1.

        u₁ = x − σ₁ E(r₁h) ε₀
        order 1:            low  = high = x − σ' E(h) ε₀
        order 2, r₁ = ½:    low  = x − σ' E(h) ε₀,   high = low − σ' E(h) (ε₁ − ε₀)
        order 3, r = ⅓, ⅔:  low  = x − σ' E(h) ε₀ − (3/2) σ' E(h) (ε₁ − ε₀)
                            u₂   = x − σ₂ E(r₂h) ε₀ − 2 σ₂ (E(r₂h)/(r₂h) − 1) (ε₁ − ε₀)
                            high = x − σ' E(h) ε₀ − (3/2) σ' (E(h)/h − 1) (ε₂ − ε₀)

    Args:
        x: Latent at the start of the interval.
        s: The interval.
        order: Order of the higher solver: 1, 2 or 3.

    Returns:
        The results of the lower and of the higher order, (low, high).
    """

    def eps(u: Tensor, sigma: Tensor) -> Generator[tuple[Latent, Sigma], Pred, Latent]:
        sigma = sigma.double()
        D = (yield u, sigma).x0
        return lincomb(1 / sigma, u, -1 / sigma, D)

    def move(p: Stretch, k: Tensor | None = None, e: Latent | None = None) -> Latent:
        """x − σE(h) ε₀ − k (e − ε₀) over p."""
        along = -(p.sigma_next * E(p.h)).double()
        if k is None or e is None:
            return lincomb(1.0, x, along, e0)
        return lincomb(1.0, x, along + k.double(), e0, -k.double(), e)

    E = torch.expm1
    one, two = s.part(1 / 2 if order == 2 else 1 / 3), s.part(2 / 3)
    e0 = yield from eps(x, s.sigma)
    if order == 1:
        return (low := move(s)), low
    e1 = yield from eps(move(one), one.sigma_next)
    if order == 2:
        return move(s), move(s, s.sigma_next * E(s.h), e1)
    e2 = yield from eps(move(two, 2 * two.sigma_next * (E(two.h) / two.h - 1), e1), two.sigma_next)
    low = move(s, 1.5 * s.sigma_next * E(s.h), e1)
    return low, move(s, s.sigma_next / (2 / 3) * (E(s.h) / s.h - 1), e2)  # rounded as ComfyUI does


def macro_steps(grid: Grid, params: Mapping[str, Any]) -> Grid:
    """⌊n/3⌋ + 1 steps of equal size in ln σ, from σ₀ to the last σ above 0.

    ln σ is computed in float32, or in float64 with `precise`. With `denoise_to_zero` one more step leads to the
    schedule's final 0.

    Raises:
        ValueError: If the grid is a σ-field.
    """
    if grid.is_field:
        raise ValueError(f"dpm_fast chooses its own steps and needs one sigma per step; got {tuple(grid.sigmas.shape)}")
    if grid.n == 0:
        return grid
    sigmas = ends(grid, params).sigmas
    high, low = numbers(sigmas[:2].log())
    t = torch.linspace(-high, -low, grid.n // 3 + 2, dtype=_times(params["precise"])).double()
    return replace(grid, sigmas=torch.cat([(-t).exp(), sigmas[2:]]), asked=grid.n)


@sampler(
    "dpm_fast",
    order=3,
    evals=3,
    noise="gaussian",
    stops_early=True,
    grid=macro_steps,
    paper="arXiv:2206.00927 App. D.3",
)
def dpm_fast(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    eta: NonNegative = 0.0,
    s_noise: NonNegative = 1.0,
    flow_noise: bool = False,
    denoise_to_zero: bool = False,
    precise: bool = False,
) -> Step:
    """DPM-Solver-fast: third-order steps, and one or two steps of lower order for the rest of n evaluations.

        n mod 3 = 0: 3, 3, …, 2, 1;   else 3, 3, …, n mod 3;   λ = −ln σ, equal steps

    Only σ₀, the last σ above 0 and the number of steps n of the schedule are used. The run ends at the last σ above 0,
    as in ComfyUI, so x keeps that much noise unless denoise_to_zero is set.

    Args:
        eta: Amount of noise added after each step: 0 gives the ODE, 1 ancestral noise.
        s_noise: Factor on the added noise.
        flow_noise: On a flow, add the flow's noise; ComfyUI adds VE's noise.
        denoise_to_zero: Evaluate once more at the last σ above 0 and return D.
        precise: Compute steps and coefficients in float64 instead of ComfyUI's float32.
    """
    if s.last:
        return (yield x, s.sigma).x0, {}
    if s.sigma_next == s.sigma:  # the schedule has one level above 0
        yield x, s.sigma
        return x, {}
    n, left = s.asked // 3 + 1, s.asked % 3
    order = {n - 2: 2, n - 1: 1} if left == 0 else {n - 1: left}
    span = s if flow_noise else s.ve
    down, keep, up = descend(span, s.at(n - 1 - s.i).sigma_next, eta)
    _, high = yield from embedded_pair(x, stretch(down, _times(precise)), order.get(s.i, 3))
    return lincomb(keep, high, up * s_noise, noise(s.ve)) if eta else high, {}


def _times(precise: bool) -> torch.dtype:
    return torch.float64 if precise else torch.float32


def _sigma(lam: float) -> Sigma:
    return torch.tensor(math.exp(-lam), dtype=torch.float64)
