"""Evaluations that are left out: while the input X moves little, Y = X + d with the difference of an earlier step.

    a ← a + ρ mean|X − X̄|/N,   leave out while a < threshold, else a ← 0, compute Y, and
    ρ ← mean|Y − Ȳ|/mean|X − X̄|,   X̄ ← X,   Ȳ ← Y,   N ← mean|Y|,   d ← Y − X

X̄ and Ȳ are every eighth place of the input and the output that were computed last; ρ and N are unset at first, and
without them Y is computed. Whether to compute is decided on the host: that one number is read from the device once an
evaluation, which is the only place in a step that waits for it. All samples of a batch are decided as one.

Zhou et al., arXiv:2507.02860.
"""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import Annotated, Literal

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond
from sigmafield.core.memory import Memory
from sigmafield.core.parameters import Range
from sigmafield.core.process import Clock, per_sample
from sigmafield.core.protocols import Call, Ctx, Denoiser, Network, Patch, Pred
from sigmafield.guidance.frequency import plane
from sigmafield.guidance.registry import mod

EVERY = 8
"""Places along the axes of the image from one to the next of those that are compared."""

Threshold = Annotated[float, Range(0, 3)]
Start = Annotated[float, Range(0, "end_percent", below=True)]
End = Annotated[float, Range("start_percent", 1, above=True)]


def sampled(z: Tensor) -> Tensor:
    """Every eighth place of the image, in memory of its own."""
    for axis in plane(z):
        z = z[(..., slice(None, None, EVERY), *[slice(None)] * (-1 - axis))]
    return z.clone()


def phase(sigma: Sigma, start: float, end: float, clock: Clock) -> Literal["before", "inside", "after"]:
    """Where σ is: inside if σ(end) < σ ≤ σ(start), all samples' levels are, in float32 as in ComfyUI."""
    level = sigma.float()
    first, last = (torch.tensor(clock(p), dtype=torch.float32) for p in (start, end))
    if (level <= last).any():
        return "after"
    return "before" if (level > first).any() else "inside"


def moved(aux: Memory, name: str, X: Tensor) -> Tensor | None:
    """mean|X − X̄|; None where there is no X̄. One of another shape is forgotten, with all that came with it."""
    last = aux.get(f"{name}.X")
    if last is not None and (last.shape, last.dtype) != (X.shape, X.dtype):
        forget(aux, f"{name}.")
        return None
    return None if last is None else (X - last).abs().mean()


def leaves_out(aux: Memory, name: str, change: Tensor | None, threshold: float) -> bool:
    """Whether this evaluation is left out; a is updated. Waits for the device where ρ and N are known."""
    rate = aux.get(f"{name}.rate")
    if change is None or rate is None:
        return False
    a = aux.get(f"{name}.a", 0.0) + float(rate * change / aux[f"{name}.N"])
    out = a < threshold
    aux[f"{name}.a"] = a if out else 0.0
    return out


def learn(aux: Memory, name: str, X: Tensor, Y: Tensor, size: Tensor, change: Tensor | None) -> None:
    """What was computed becomes the memory; the rate is known where there was a change to compare with."""
    if change is not None:
        aux[f"{name}.rate"] = (Y - aux[f"{name}.Y"]).abs().mean() / change
    aux[f"{name}.X"], aux[f"{name}.Y"], aux[f"{name}.N"] = X, Y, size


def forget(aux: Memory, *beginnings: str) -> None:
    """Remove the entries whose names begin so."""
    for name in [name for name in aux if name.startswith(beginnings)]:
        del aux[name]


def one_level(name: str, *sigmas: Tensor) -> None:
    """Raises ValueError for noise levels that vary within a sample, whose places are evaluated level by level."""
    if any(s.ndim and per_sample(s) is None for s in sigmas):
        raise ValueError(f"{name} needs one sigma per sample: leave it out where the noise level varies over a sample")


def identity(call: Call) -> str:
    """What a network call is about, the same in every process: the roles of its rows, patches, part of the latent."""
    roles = ", ".join(f"{len(list(rows))} {role}" for role, rows in groupby(call.roles))
    return f"{roles}; {', '.join(map(name_of, call.ctx.patches))}; {call.ctx.part}"


def name_of(patch: Patch) -> str:
    """The name of a patch with its parameters, as far as these are plain values."""
    if not isinstance(patch, partial):
        return getattr(patch, "__qualname__", type(patch).__qualname__)
    plain = {k: v for k, v in patch.keywords.items() if isinstance(v, (int, float, str, tuple))}
    return f"{name_of(patch.func)}{plain}"


@mod("easycache", "network", "arXiv:2507.02860", one_sigma=True)
def easycache(
    network: Network,
    call: Call,
    *,
    reuse_threshold: Threshold = 0.2,
    start_percent: Start = 0.15,
    end_percent: End = 0.95,
) -> Network:
    """EasyCache: network calls are left out while the input moves little, and answered with F(x) ≈ x + d.

        a ← a + ρ mean|x − x̄|/N,   leave out while a < reuse_threshold;   d = F(x̄) − x̄,   N = mean|F(x̄)|

    ρ is the relative change of the output and the input between the last two that were computed, on every eighth place.
    The first rows of an evaluation decide for all of it; each prompt, perturbed or not, has a d of its own. It acts
    from start_percent to end_percent of the run; 0 leaves nothing out. The device is waited for once an evaluation.
    Raises ValueError where the noise level varies within a sample.
    """
    if not reuse_threshold:
        return network
    one_level("easycache", call.sigma, call.ctx.span.sigma)
    now = phase(call.sigma, start_percent, end_percent, call.ctx.span.sigma_at)
    if now != "inside":
        return network
    return partial(_cached, network, call, reuse_threshold)


def _cached(network: Network, call: Call, threshold: float, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    aux, plan, about = call.ctx.aux, call.ctx.plan, identity(call)
    earlier: tuple[str, ...] = plan.get("easycache.calls", ())
    plan["easycache.calls"] = (*earlier, about)
    key = f"easycache.d {about} {earlier.count(about)}"  # with max_rows, several calls are about the same
    leads, rows, change = not earlier, len(next(list(g) for _, g in groupby(call.roles))), None
    if leads:
        if aux.get("easycache.leader") != key:
            forget(aux, "easycache.")
        change = moved(aux, "easycache", sampled(x[:rows]))
        plan["easycache.out"] = leaves_out(aux, "easycache", change, threshold)
    d = aux.get(key)
    if plan["easycache.out"] and d is not None and d.shape == x.shape:
        return x + d
    F = network(x, t, cond)
    if leads:
        learn(aux, "easycache", sampled(x[:rows]), sampled(F[:rows]), F.abs().mean(), change)
        forget(aux, "easycache.d ")  # the others' are of earlier evaluations
        aux["easycache.leader"] = key
    aux[key] = F - x
    return F


@mod("lazycache", "around", "arXiv:2507.02860", one_sigma=True)
def lazycache(
    denoise: Denoiser, *, reuse_threshold: Threshold = 0.2, start_percent: Start = 0.15, end_percent: End = 0.95
) -> Denoiser:
    """LazyCache: EasyCache's rule for the guided prediction, whatever makes it; left out, D ≈ x + d.

        a ← a + ρ mean|x − x̄|/N,   leave out while a < reuse_threshold;   d = D(x̄) − x̄,   N = mean|D(x̄)|

    ρ is the relative change of D and of x between the last two that were computed, on every eighth place. It acts from
    start_percent to end_percent of the run, and looks on before; 0 leaves nothing out. Mods of other kinds do not act
    in what is left out. The device is waited for once an evaluation.
    Raises ValueError where the noise level varies within a sample.
    """

    def cached(x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        one_level("lazycache", sigma, ctx.span.sigma)
        now = phase(sigma, start_percent, end_percent, ctx.span.sigma_at)
        if now == "after":
            return denoise(x, sigma, ctx)
        X, aux = sampled(x), ctx.aux
        change = moved(aux, "lazycache", X) if now == "inside" else None
        if leaves_out(aux, "lazycache", change, reuse_threshold):
            return Pred(**{name: x + aux[key] for name in Pred._fields if (key := f"lazycache.d {name}") in aux})
        pred = denoise(x, sigma, ctx)
        learn(aux, "lazycache", X, sampled(pred.x0), pred.x0.abs().mean(), change)
        forget(aux, "lazycache.d ")
        for name, D in zip(Pred._fields, pred):
            if D is not None:
                aux[f"lazycache.d {name}"] = D - x
        return pred

    return cached if reuse_threshold else denoise
