"""Distance samplers: a step takes a soft median of several slopes. Euler's and Heun's methods are special cases."""

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
"""Largest number of resamples where the number follows from the length of the schedule."""

Guidance = Literal["off", "doubled", "paper"]

Times = Annotated[int, Range(-1, 32)]
Factor = Annotated[float, Range(-100, 100)]

Operator = Callable[[Latent, Latent], Latent]
"""(combined slope, previous combined slope) → the slope to take."""


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
    """Distance sampler: repeats the step K times, each time with a soft median of all slopes seen so far.

        x' = k (x + (σ_down − σ) d_K) + σ_up s_noise ξ,   (σ_down, k, σ_up) = s.ancestral(η)
        d₀ = (x − D(x, σ))/σ,   e_r = (z_r − D(z_r, σ'))/σ',   z_r = x + (σ' − σ) d_r
        d₁ = ½ (d₀ + e₀),   d_{r+1} = combine(d₀, e₀, e₁, d₂, e₂ … d_r, e_r)

    K = 0 is Euler's method and K = 1 Heun's; where σ' = 0 the step is always Euler's. `combine` weights the slopes by
    their distances from each other, see `sigmafield.samplers.soft_median`. It uses norms of whole channels, so every
    position of a channel depends on all others.

    With R = resample and E = resample_end, K goes from R at the largest σ to E at the smallest: R m + E (1 − m)
    truncated to an integer, m = √((σ − σ_min)/(σ_max − σ_min)).

    sharpen and perp_step change a combined slope by the previous one, which is also carried from step to step. Together
    with smooth, they use statistics of the whole batch, so a sample depends on the others in its batch unless
    per_sample is set.

    With distance_step_eta, noise is added to z_r in the same way as to x'. The first and last steps of the three ranges
    are clamped to the steps of the run, and their order does not matter.
    At cfg 1, where U is not evaluated, cfgpp = "doubled" and use_negative have no effect, and cfgpp = "paper" raises
    ValueError. The reference gives NaN where all slopes agree (at pinned positions), and slopes up to 70 times too long
    where two of them are opposite (a constant latent); this implementation does neither.

    Args:
        resample: Number K of extra evaluations at σ' in each step; -1 takes half the number of levels in the schedule,
            at most 10.
        resample_end: Number of resamples at the smallest σ, to which K goes from `resample`; -1 keeps K constant.
        cfgpp: CFG++ variant: "off" is plain guidance, "doubled" takes slopes from 2 D − U, as the reference's cfgpp
            does (equal to twice the guidance scale), and "paper" is CFG++ itself (euler_ancestral_cfg_pp), with K = 0.
        eta: Amount of noise added after the step: 0 gives the ODE, 1 the noise of DDPM.
        s_noise: Factor on the noise added after the step.
        distance_step_eta: Amount of noise added to every trial point z_r.
        distance_step_s_noise: Factor on the noise added to the trial points.
        use_softmax: Weight slopes by a softmax of their closeness to the others instead of by its square.
        use_slerp: Combine slopes by spherical interpolation instead of a weighted mean.
        use_negative: Favour slopes that differ from the direction of U.
        perp_step: Subtract the part of the previous combined slope that is perpendicular to the new one (ignored with
            sharpen).
        sharpen: Subtract the direction of the previous combined slope where it differs most from the new one.
        smooth: Even out the contrast of D at σ' before a slope is taken from it.
        distance_first: First step with resampling, counted from 0, or from the end if negative.
        distance_last: Last step with resampling, counted from 0, or from the end if negative.
        eta_first: First step with noise after the step, counted from 0, or from the end if negative.
        eta_last: Last step with noise after the step, counted from 0, or from the end if negative.
        distance_eta_first: First step with noise in the trial points, counted from 0, or from the end if negative.
        distance_eta_last: Last step with noise in the trial points, counted from 0, or from the end if negative.
        per_sample: Use statistics of each sample (in perp_step, of each channel) instead of the whole batch.
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
    """Evaluate at σ' `times` times, each time where the slope found so far leads, and combine the slopes.

    Where σ' = 0 there is no slope at σ', and the first slope d is used in its place.

    Args:
        d: Slope at σ.
        s: Interval of the step.
        times: Number of evaluations at σ', at least 1.
        move: Maps a slope to the trial point at σ'.
        target: Maps a prediction to the clean latent that a slope points away from.
        mean: Combines a list of slopes and an optional U into one slope.
        use_negative: Whether `mean` is given U.
        operator: Changes a combined slope by the previous one; None leaves it.
        last: Previous combined slope, None if there is none yet.

    Returns:
        The slope to take, and the last slope that `operator` made (or `last` unchanged).
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
    """Clean latent that a slope points away from: D, or 2 D − U if doubled and U was evaluated.

    Args:
        doubled: Whether to use 2 D − U.
        smooth: Whether to even out the contrast of D first.
        per_sample: Whether smoothing uses statistics of each sample instead of the whole batch.
    """
    D = smoothed(p.x0, per_sample=per_sample) if smooth else p.x0
    return lincomb(2.0, D, -1.0, p.uncond) if doubled and p.uncond is not None else D


def slope(x: Latent, s: Span, D: Latent) -> Latent:
    """(x − D)/σ, and 0 where σ = 0; the difference is taken first, to keep its digits where x is close to D."""
    per_sigma = torch.where(s.sigma == 0, 0.0, 1 / torch.where(s.sigma == 0, 1.0, s.sigma))
    return lincomb(per_sigma, x - D)


def advance(x: Latent, d: Latent, s: Span, eta: float, s_noise: float, noise: Noise) -> Latent:
    """k (x + (σ_down − σ) d) + σ_up s_noise ξ: a step along the slope d, then noise.

    Without noise the result is x + (σ' − σ) d, but if only s_noise is 0 the step still ends at σ_down.
    """
    down, keep, up = s.ancestral(eta)
    drawn = kick(s, eta, s_noise, up, noise)
    keep = keep if drawn else torch.ones_like(keep)
    return lincomb(keep, x, keep * (down.sigma_next - s.sigma), d, *drawn)


def kick(s: Span, eta: float, s_noise: float, up: Sigma, noise: Noise) -> list[Tensor]:
    """Noise of a step as a term of `lincomb`; an empty list where no noise is drawn."""
    return [up * s_noise, noise(s)] if eta and s_noise and not s.last.all() else []


def resamples(s: Span, start: int, end: int) -> int:
    """Number K of resamples in this step; for a σ-field, the largest K that any position asks for.

    Computed in float32, as in the reference.

    Args:
        s: Interval of the step, with its schedule.
        start: K at the largest σ; -1 for half the number of levels, at most `MOST`.
        end: K at the smallest σ; negative for the same K at every σ.
    """
    most = min(MOST, (s.n + 1) // 2) if start == -1 else start
    if end < 0:
        return most
    levels = (torch.stack([s.sigma, s.sigma_next]) if s.sigmas is None else s.sigmas).float()
    low, high = levels.where(levels > 0, torch.inf).amin(0), levels.amax(0)
    m = ((s.sigma.float() - low) / (high - low)).sqrt().nan_to_num(1.0).clamp(0, 1)
    times = (most * m + end * (1 - m)).trunc().clamp(min(most, end), max(most, end))
    return int(times.max())


def inside(s: Span, first: int, last: int) -> bool:
    """Whether this step is one of first … last, counted from 0, or from the end if negative."""
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
    """Euler's method with every slope moved away from the part of the previous slope perpendicular to it.

        x' = x + (σ' − σ) d,   d = perpendicular((x − D)/σ, d₋, strength),   d₋ of the previous step

    The first slope is not changed, and where σ' = 0 the result is D. By default the inner product of the two slopes is
    summed over the whole batch, so a sample depends on the others in its batch.

    Args:
        strength: How far a slope is moved, relative to its norm; 0 is Euler's method.
        per_matrix: Compute the inner product for each channel separately instead of summing it over the whole batch.
    """
    D = (yield x, s.sigma).x0
    if s.last.all():
        return D, {}
    d = slope(x, s, D)
    if "d" in mem:
        d = _unless_last(perpendicular(d, mem["d"], strength, per_matrix=per_matrix), d, s)
    return lincomb(1.0, x, s.sigma_next - s.sigma, d), {"d": d}
