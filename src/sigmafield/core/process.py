"""Noise levels: the process that adds noise, and one interval of a schedule.

Everything here is float64 on the CPU. A noise level is a number or a field [B, 1, *space].
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.linear import lincomb

P = ParamSpec("P")
T = TypeVar("T")

LAM_MAX = 80.0
"""|λ| is clamped to this (σ ≈ 2e-35), so that σ = 0 gives no infinities; `Span.last` marks the end of a run."""

FROZEN = 1e-6
"""Where |h| of an interval is below this, the latent is left as it is."""


@dataclass(frozen=True)
class VE:
    """Variance exploding, x = x0 + σ ξ: networks that predict ε, v, x0 or EDM's F. α = 1, λ = −ln σ.

    Args:
        sigma_max: Level from which on a run starts from pure noise: the largest that the network was trained on.
    """

    sigma_max: float = float("inf")

    def alpha(self, sigma: Sigma) -> Sigma:
        """Signal scale α(σ) = 1."""
        return torch.ones_like(sigma)

    def lam(self, sigma: Sigma) -> Sigma:
        """λ(σ) = −ln σ."""
        return -sigma.log()

    def sigma(self, lam: Sigma) -> Sigma:
        """σ(λ) = e^(−λ)."""
        return (-lam).exp()

    def start(self, sigma: Sigma, noise: Latent, latent: Latent) -> Latent:
        """The first x: latent + σ ξ, or latent + √(1 + σ²) ξ where σ is at least `sigma_max` (pure noise)."""
        pure = torch.isclose(sigma, torch.full_like(sigma, self.sigma_max), rtol=1e-5, atol=0) | (
            sigma > self.sigma_max
        )
        return lincomb(1.0, latent, torch.where(pure, (1 + sigma**2).sqrt(), sigma), noise)

    def finish(self, sigma: Sigma, x: Latent) -> Latent:
        """The clean latent of a run that ended at σ: x itself."""
        return x


@dataclass(frozen=True)
class Flow:
    """Rectified flow, x = (1 − σ) x0 + σ ξ. α = 1 − σ, λ = ln((1 − σ)/σ).

    Args:
        shift: Ratio s of the model's time shift s u/(1 + (s − 1) u), which sets the first level of samplers in λ.
    """

    shift: float = 1.0

    def alpha(self, sigma: Sigma) -> Sigma:
        """Signal scale α(σ) = 1 − σ."""
        return 1 - sigma

    def lam(self, sigma: Sigma) -> Sigma:
        """λ(σ) = ln((1 − σ)/σ)."""
        return torch.log1p(-sigma) - sigma.log()

    def sigma(self, lam: Sigma) -> Sigma:
        """σ(λ) = 1/(1 + e^λ)."""
        return torch.sigmoid(-lam)

    @property
    def first(self) -> float:
        """The level that samplers in λ start from instead of σ = 1: s u/(1 + (s − 1) u) at u = 0.9999."""
        u = 1 - 1e-4
        return self.shift * u / (1 + (self.shift - 1) * u)

    def start(self, sigma: Sigma, noise: Latent, latent: Latent) -> Latent:
        """The first x: (1 − σ) latent + σ ξ."""
        return lincomb(1 - sigma, latent, sigma, noise)

    def finish(self, sigma: Sigma, x: Latent) -> Latent:
        """The clean latent of a run that ended at σ: x/(1 − σ)."""
        return x if not sigma.any() else lincomb(1 / (1 - sigma), x)


Process = VE | Flow

Clock = Callable[[float], float]
"""A network's clock: share of the way through sampling, 0 = start (most noise) … 1 = end → σ."""


@dataclass(frozen=True)
class Span:
    """One interval σ → σ' of a schedule, in the vocabulary of the papers. All properties have the shape of σ.

    Args:
        sigma: σ at its start, 0-d or [B, 1, *space].
        sigma_next: σ' at its end, of the same shape.
        process: The process that adds noise.
        i: Index of the step.
        n: Number of steps of the schedule.
        sigmas: The whole schedule, for `at` and `history`.
        asked: Number of steps of the schedule as it was given, before the sampler changed it.
        clock: The network's clock, where it is known.
    """

    sigma: Sigma
    sigma_next: Sigma
    process: Process
    i: int = 0
    n: int = 1
    sigmas: Float64[Tensor, "levels ..."] | None = field(default=None, repr=False)
    asked: int = 1
    clock: Clock | None = field(default=None, repr=False)
    kept: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any], repr=False, compare=False)
    """What `of_run` has computed; all intervals of a schedule have the same."""

    def sigma_at(self, percent: float) -> float:
        """σ at a share of the way through sampling, 0 … 1; ValueError if the network's clock is not known."""
        if self.clock is None:
            raise ValueError("shares of the run need the network's clock: Grid(sigmas, process, clock=sampling.clock)")
        return self.clock(percent)

    def at(self, k: int) -> Span:
        """The interval k steps later, −i ≤ k < n − i; negative for the history of multistep samplers."""
        if self.sigmas is None or not 0 <= self.i + k < self.n:
            raise IndexError(f"step {self.i} of {self.n} has no interval {k:+d}")
        return replace(self, sigma=self.sigmas[self.i + k], sigma_next=self.sigmas[self.i + k + 1], i=self.i + k)

    def of_run(self, make: Callable[Concatenate[Span, P], Sequence[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """This step's part of what a function computes for all steps of a schedule with one σ per step.

        It is computed once: a function of tensors costs as much for all steps as for one.

        Args:
            make: Is given one `Span` of all intervals, of shape [n], and gives a part for each step.
            args: Further arguments, which are hashable.
            kwargs: Further arguments by name.
        """
        key = (make, self.process, args, *kwargs.items())
        if key not in self.kept:
            assert self.sigmas is not None
            every = replace(self, sigma=self.sigmas[:-1], sigma_next=self.sigmas[1:], i=0)
            self.kept[key] = make(every, *args, **kwargs)
        return self.kept[key][self.i]

    @cached_property
    def lam(self) -> Sigma:
        """λ = ln(α/σ), clamped to ±80."""
        return self.process.lam(self.sigma).clamp(-LAM_MAX, LAM_MAX)

    @cached_property
    def lam_next(self) -> Sigma:
        """λ' at σ'."""
        return self.process.lam(self.sigma_next).clamp(-LAM_MAX, LAM_MAX)

    @cached_property
    def h(self) -> Sigma:
        """Step in λ: λ' − λ, positive when denoising."""
        return self.lam_next - self.lam

    @cached_property
    def alpha_next(self) -> Sigma:
        """Signal scale α' at σ'."""
        return self.process.alpha(self.sigma_next)

    @cached_property
    def ratio(self) -> Sigma:
        """σ'/σ, and 1 where σ is 0, in a region that has ended."""
        done = self.sigma == 0
        return torch.where(done, 1.0, self.sigma_next / torch.where(done, 1.0, self.sigma))

    @cached_property
    def last(self) -> Bool[Tensor, "*field"]:
        """Where σ' = 0: there the update is the denoised latent itself."""
        return self.sigma_next == 0

    @cached_property
    def frozen(self) -> Bool[Tensor, "*field"]:
        """Where the interval is empty and the latent stays as it is."""
        return self.h.abs() < FROZEN

    def history(self, most: int) -> Int[Tensor, "*field"]:
        """Number of intervals directly before this one without a frozen one among them, at most `most`.

        A multistep sampler may use this many earlier steps: a position that joins late starts without history.
        """
        spans = [self.at(-k) for k in range(min(self.i, most), 0, -1)]
        return unbroken(torch.stack([*(span.frozen for span in spans), self.frozen]), most)[-1]

    @cached_property
    def ve(self) -> Span:
        """The same interval in VE, λ = −ln σ, whatever the process: the time axis of DPM-Solver++."""
        return replace(self, process=VE())

    @cached_property
    def scaled(self) -> Span:
        """The interval of x/α, in VE from σ/α to σ'/α'; it starts at infinity for σ = 1 of a flow."""
        alpha = self.process.alpha(self.sigma)
        return Span(self.sigma / alpha, self.sigma_next / self.alpha_next, VE(), self.i, self.n)

    def split(self, r: float) -> tuple[Span, Span]:
        """The two parts of the interval, cut at λ + r h for r > 0, which is beyond its end for r > 1."""
        # at r = 1 the second part must be exactly empty, without rounding: its noise grows with √h
        mid = self.sigma_next if r == 1 else self.process.sigma(self.lam + r * self.h)
        return replace(self, sigma_next=mid), replace(self, sigma=mid)

    def ancestral(self, eta: float, below_zero: bool = False) -> tuple[Span, Sigma, Sigma]:
        """(interval to σ_down, k, σ_up) of x' = k y + σ_up ξ, where a deterministic step leads to y at σ_down.

        VE:    σ_up = min(σ', η √(σ'² (σ² − σ'²)/σ²)),   σ_down = √(σ'² − σ_up²),   k = 1
        flow:  σ_down = max(0, σ' (1 + (σ'/σ − 1) η)),   k = (1 − σ')/(1 − σ_down),   σ_up = √(σ'² − (k σ_down)²)

        η = 0 keeps the interval. At η ≥ σ/√(σ² − σ'²) in VE, and η ≥ 1/(1 − σ'/σ) in a flow, σ_down = 0: all of the
        noise is new. Song et al., arXiv:2010.02502.

        Args:
            eta: η, the share of new noise.
            below_zero: Whether σ_down of a flow may go below 0, which changes the sign of the old noise.
        """
        a, b = self.sigma, self.sigma_next
        if not eta:
            return self, torch.ones_like(b), torch.zeros_like(b)
        if isinstance(self.process, Flow):
            down = b * (1 + (self.ratio - 1) * eta)
            down = down if below_zero else down.clamp(min=0)
            keep = (1 - b) / (1 - down)
            return replace(self, sigma_next=down), keep, (b**2 - (keep * down) ** 2).clamp(min=0).sqrt()
        up = eta * (b**2 * (a**2 - b**2) / torch.where(a == 0, 1.0, a) ** 2).sqrt()
        up = torch.where(up.isnan(), b, torch.minimum(up, b))
        return replace(self, sigma_next=(b**2 - up**2).sqrt()), torch.ones_like(b), up

    def ei(self, eta: float | Sigma = 0.0) -> tuple[Sigma, Sigma, Sigma]:
        """Coefficients (a, b, c) of x' = a x + b D + c ξ, exact while D is constant over the interval.

        a = (σ'/σ) e^(−ηh),   b = α' (1 − e^(−(1+η)h)),   c = σ' √(1 − e^(−2ηh))
        """
        if isinstance(eta, float) and not eta:  # the same numbers with a third of the operations
            return self.ratio, self.alpha_next * -torch.expm1(-self.h), torch.zeros_like(self.h)
        return (
            self.ratio * (-eta * self.h).exp(),
            self.alpha_next * -torch.expm1(-(1 + eta) * self.h),
            self.sigma_next * (-torch.expm1(-2 * eta * self.h)).clamp(min=0).sqrt(),
        )


def unbroken(frozen: Bool[Tensor, "n *field"], most: int) -> Int[Tensor, "n *field"]:
    """Number of intervals directly before each one without a frozen one among them, at most `most`.

    Args:
        frozen: Which of consecutive intervals are frozen.
        most: The largest answer.
    """
    all_open, count = torch.ones_like(frozen), torch.zeros_like(frozen, dtype=torch.int64)
    for k in range(1, min(len(frozen) - 1, most) + 1):
        all_open = all_open & torch.cat([torch.zeros_like(frozen[:k]), ~frozen[:-k]])
        count = count + all_open
    return count


def per_sample(sigma: Sigma) -> Float64[Tensor, "batch"] | None:
    """The level of each sample of a field [B, 1, *space] that is constant within samples; None for other fields."""
    rows = sigma.flatten(1)
    return rows[:, 0] if bool((rows == rows[:, :1]).all()) else None
