"""Distance samplers: the slope of a step is a soft median of several. Euler's and Heun's are special cases."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.linear import lincomb
from sigmafield.core.memory import Memory
from sigmafield.core.parameters import NonNegative, Range
from sigmafield.core.process import Span
from sigmafield.core.protocols import Noise, Pred, Step
from sigmafield.noise.sources import inner_of
from sigmafield.samplers.euler import euler_ancestral_cfg_pp
from sigmafield.samplers.registry import Params, preset, sampler
from sigmafield.samplers.soft_median import combine, perpendicular, sharpened, smoothed

MOST = 10
"""Resamples at most where their number follows from the schedule's length."""

Guidance = Literal["off", "doubled", "paper"]

Times = Annotated[int, Range(-1, 32)]
Factor = Annotated[float, Range(-100, 100)]

Operator = Callable[[Latent, Latent], Latent]
"""(slope, the last one) → the slope to take."""


def kicks(params: Params) -> bool:
    """Whether noise is added after a step or in its trial points, with these parameters."""
    return any(params[f"{part}eta"] and params[f"{part}s_noise"] for part in ("", "distance_step_"))


@sampler(
    "distance_c3",
    order=1,
    evals=4,
    noise="gaussian_pair",
    noisy=kicks,
    linear=False,
    paper="github.com/Extraltodeus/DistanceSampler",
)
def distance(
    x: Latent,
    s: Span,
    mem: Memory,
    noise: Noise,
    *,
    resample: Times = 3,
    resample_end: Times = -1,
    cfgpp: Guidance = "off",
    eta: NonNegative = 0.0,
    s_noise: Factor = 1.0,
    distance_step_eta: NonNegative = 0.0,
    distance_step_s_noise: Factor = 1.0,
    use_softmax: bool = False,
    use_slerp: bool = False,
    use_negative: bool = False,
    perp_step: bool = False,
    sharpen: bool = False,
    smooth: bool = False,
    distance_first: int = 0,
    distance_last: int = -1,
    eta_first: int = 0,
    eta_last: int = -1,
    distance_eta_first: int = 0,
    distance_eta_last: int = -1,
    per_sample: bool = False,
) -> Step:
    """Distance: the step is tried K times over, each time by a soft median of all slopes seen so far.

        x' = k (x + (σ_down − σ) d_K) + σ_up s_noise ξ,   (σ_down, k, σ_up) = s.ancestral(η)
        d₀ = (x − D(x, σ))/σ,   e_r = (z_r − D(z_r, σ'))/σ',   z_r = x + (σ' − σ) d_r
        d₁ = ½ (d₀ + e₀),   d_{r+1} = combine(d₀, e₀, e₁, d₂, e₂ … d_r, e_r)

    K = 0 is Euler's step (also where σ' = 0) and K = 1 Heun's; `combine` weighs slopes by their distances from the
    others, see `sigmafield.samplers.soft_median`. It looks at whole channels: a pixel depends on the others.

    -1 ≤ resample ≤ 32: K, or −1 for half the schedule's levels, at most 10. -1 ≤ resample_end ≤ 32: with R = resample,
    K goes from R at the largest σ to resample_end at the smallest, R m + E (1 − m) cut to an integer,
    m = √((σ − σ_min)/(σ_max − σ_min)); −1 keeps R. use_slerp, use_softmax: how slopes are combined. use_negative: keep
    away from U's direction. sharpen, perp_step: change a combined slope by the last one, across steps; smooth: even out
    the contrast of D at σ'. These three look at the whole batch, so that a sample depends on the others, but for
    per_sample = True.
    eta ≥ 0, -100 ≤ s_noise ≤ 100: noise after the step; distance_step_eta ≥ 0, -100 ≤ distance_step_s_noise ≤ 100: in
    every z. distance_first, distance_last: the first and the last step with resampling; eta_first, eta_last and
    distance_eta_first, distance_eta_last: those with each noise; from 0, or from the end if negative, and cut to the
    steps that there are.
    cfgpp: off; doubled aims at 2 D − U, as the reference's cfgpp does: it is guidance of twice the scale; paper is
    CFG++ itself, euler_ancestral_cfg_pp, which has no resamples: there K = 0. Without U, at cfg 1, doubled and
    use_negative do nothing, but paper needs it. The reference's NaN where all slopes agree (at pinned pixels) is not
    reproduced.
    """
    noisy = eta if inside(s, eta_first, eta_last) else 0.0
    if cfgpp == "paper":
        return (yield from euler_ancestral_cfg_pp(x, s, mem, noise, eta=noisy, s_noise=s_noise))
    target = partial(aim, doubled=cfgpp == "doubled", smooth=False, per_sample=per_sample)
    p = yield x, s.sigma
    times = resamples(s, resample, resample_end) if inside(s, distance_first, distance_last) else 0
    if not times or s.last.all():
        down, keep, up = s.ancestral(noisy)
        terms = [keep * down.ratio, x, keep * (1 - down.ratio), target(p)]
        return lincomb(*terms, *kick(s, noisy, s_noise, up, noise)), mem
    operator: Operator | None = None
    if sharpen:
        operator = partial(sharpened, per_sample=per_sample)
    elif perp_step:
        operator = partial(perpendicular, per_matrix=per_sample)
    inner = distance_step_eta if inside(s, distance_eta_first, distance_eta_last) else 0.0
    d, last = yield from resampled(
        slope(x, s, target(p)),
        s,
        times,
        lambda d: advance(x, d, s, inner, distance_step_s_noise, inner_of(noise)),
        partial(target, smooth=smooth),
        partial(combine, use_softmax=use_softmax, use_slerp=use_slerp),
        use_negative,
        operator,
        mem.get("d"),
    )
    return advance(x, d, s, noisy, s_noise, noise), mem if last is None else {"d": last}


def resampled(
    d: Latent,
    s: Span,
    times: int,
    move: Callable[[Latent], Latent],
    target: Callable[[Pred], Latent],
    mean: Callable[[list[Latent], Latent | None], Latent],
    use_negative: bool,
    operator: Operator | None,
    last: Latent | None,
) -> Generator[tuple[Latent, Sigma], Pred, tuple[Latent, Latent | None]]:
    """(the slope to take, the last one that an operator made): `times` evaluations at σ' where the slope leads so far.

    Where σ' = 0 there is no slope, and d stands in for it.
    """
    ahead, slopes = replace(s, sigma=s.sigma_next), [d]
    for r in range(times):
        z = move(d)
        p = yield z, s.sigma_next
        slopes.append(_unless_last(slope(z, ahead, target(p)), slopes[0], s))
        if r == 0:
            d = lincomb(0.5, slopes[1], 0.5, d)
            continue
        d = mean(slopes, p.uncond if use_negative else None)
        if operator is not None:
            d = d if last is None else operator(d, last)
            last = d
        slopes.append(d)
    return d, last


def aim(p: Pred, *, doubled: bool, smooth: bool, per_sample: bool) -> Latent:
    """The clean latent that a slope points away from: D, or 2 D − U where doubled and where there is a U."""
    D = smoothed(p.x0, per_sample=per_sample) if smooth else p.x0
    return lincomb(2.0, D, -1.0, p.uncond) if doubled and p.uncond is not None else D


def slope(x: Latent, s: Span, D: Latent) -> Latent:
    """(x − D)/σ, and 0 where σ = 0. The difference first: where x is nearly D, its digits are all that counts."""
    per_sigma = torch.where(s.sigma == 0, 0.0, 1 / torch.where(s.sigma == 0, 1.0, s.sigma))
    return lincomb(per_sigma, x - D)


def advance(x: Latent, d: Latent, s: Span, eta: float, s_noise: float, noise: Noise) -> Latent:
    """k (x + (σ_down − σ) d) + σ_up s_noise ξ; without noise x + (σ' − σ) d, or, if s_noise alone is 0, to σ_down."""
    down, keep, up = s.ancestral(eta)
    drawn = kick(s, eta, s_noise, up, noise)
    keep = keep if drawn else torch.ones_like(keep)
    return lincomb(keep, x, keep * (down.sigma_next - s.sigma), d, *drawn)


def kick(s: Span, eta: float, s_noise: float, up: Sigma, noise: Noise) -> list[Tensor]:
    """The noise of a step as a term of `lincomb`, or nothing where none is drawn."""
    return [up * s_noise, noise(s)] if eta and s_noise and not s.last.all() else []


def resamples(s: Span, start: int, end: int) -> int:
    """K of this step; over a field the most that a place asks for. In float32, as in the reference."""
    most = min(MOST, (s.n + 1) // 2) if start == -1 else start
    if end < 0:
        return most
    levels = (torch.stack([s.sigma, s.sigma_next]) if s.sigmas is None else s.sigmas).float()
    low, high = levels.where(levels > 0, torch.inf).amin(0), levels.amax(0)
    m = ((s.sigma.float() - low) / (high - low)).sqrt().nan_to_num(1.0).clamp(0, 1)
    times = (most * m + end * (1 - m)).trunc().clamp(min(most, end), max(most, end))
    return int(times.max())


def inside(s: Span, first: int, last: int) -> bool:
    """Whether this step is one of first … last, counted from 0, or from the end where negative."""
    ends = sorted(min(max(k + s.n if k < 0 else k, 0), s.n - 1) for k in (first, last))
    return ends[0] <= s.i <= ends[1]


def _unless_last(e: Latent, d: Latent, s: Span) -> Latent:
    """e, but d where σ' = 0."""
    return torch.where(s.last.to(e.device), d, e) if s.last.any() else e


preset("distance", of="distance_c3", resample_end=1, use_slerp=True)
preset("distance_n", of="distance", use_negative=True)
preset("distance_p", of="distance", perp_step=True)
preset("distance_np", of="distance_n", perp_step=True)
preset("distance_fast", of="distance", use_slerp=False)
preset("distance_fast_n", of="distance_fast", use_negative=True)
preset("distance_c2", of="distance_c3", row={"evals": 3}, resample=2)
preset("distance_c4", of="distance_c3", row={"evals": 5}, resample=4)
preset("distance_cfgpp", of="distance_c4", cfgpp="doubled")
preset("distance_step_cfg_pp", of="distance_cfgpp", row={"evals": 1 + MOST}, resample=-1, resample_end=1)
preset("euler_cfg_pp_alt", of="distance_c3", row={"evals": 1, "linear": True}, resample=0, cfgpp="doubled")
preset("heun_cfg_pp", of="distance_c3", row={"order": 2, "evals": 2, "linear": True}, resample=1, cfgpp="doubled")


@sampler("perp_step", order=1, evals=1, linear=False, paper="github.com/Extraltodeus/DistanceSampler")
def perp_step(
    x: Latent, s: Span, mem: Memory, noise: Noise, *, strength: NonNegative = 0.5, per_matrix: bool = False
) -> Step:
    """Euler's sampler with every slope moved away from what the last one had across it.

        x' = x + (σ' − σ) d,   d = perpendicular((x − D)/σ, d₋, strength),   d₋ of the step before

    The first slope is as it is, and where σ' = 0 the result is D. The product of the two slopes is summed over the
    whole batch, so that a sample depends on the others; per_matrix = True: over each channel's slice. strength ≥ 0.
    """
    D = (yield x, s.sigma).x0
    if s.last.all():
        return D, {}
    d = slope(x, s, D)
    if "d" in mem:
        d = _unless_last(perpendicular(d, mem["d"], strength, per_matrix=per_matrix), d, s)
    return lincomb(1.0, x, s.sigma_next - s.sigma, d), {"d": d}
