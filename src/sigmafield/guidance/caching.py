"""Evaluations that are left out: while the input X moves little, Y = X + d with the difference of an earlier step.

    a ← a + ρ mean|X − X̄|/N,   leave out while a < threshold, else a ← 0, compute Y, and
    ρ ← mean|Y − Ȳ|/mean|X − X̄|,   X̄ ← X,   Ȳ ← Y,   N ← mean|Y|,   d ← Y − X

X̄ and Ȳ are every eighth position of the input and the output that were computed last. ρ and N are unset at first, and
without them Y is computed. Whether to compute is decided on the host: one number is read from the device for each
evaluation, the only point in a step that waits for it. All samples of a batch are decided together.

Zhou et al., arXiv:2507.02860.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond
from sigmafield.core.memory import Slot
from sigmafield.core.parameters import Range
from sigmafield.core.process import Clock, per_sample
from sigmafield.core.protocols import Call, Ctx, Denoiser, Network, Patch, Pred
from sigmafield.guidance.frequency import plane
from sigmafield.guidance.registry import mod

EVERY = 8
"""Positions along the axes of the image from one to the next of those that are compared."""

Threshold = Annotated[float, Range(0, 3)]
Start = Annotated[float, Range(0, "end_percent", below=True)]
End = Annotated[float, Range("start_percent", 1, above=True)]


@dataclass(frozen=True)
class Reuse:
    """What a cache remembers: the symbols of this module, None where they are unset.

    Args:
        X: X̄.
        Y: Ȳ.
        size: N.
        rate: ρ.
        moved: a.
        d: Differences Y − X, by what they are of.
        leader: The call that decides, where an evaluation has several.
    """

    X: Tensor | None = None
    Y: Tensor | None = None
    size: Tensor | None = None
    rate: Tensor | None = None
    moved: float = 0.0
    d: Mapping[str, Tensor] = field(default_factory=dict)
    leader: str | None = None


EASYCACHE = Slot("easycache", Reuse)
LAZYCACHE = Slot("lazycache", Reuse)


def sampled(z: Tensor) -> Tensor:
    """Every eighth position of the image, as a copy."""
    for axis in plane(z):
        z = z[(..., slice(None, None, EVERY), *[slice(None)] * (-1 - axis))]
    return z.clone()


def phase(sigma: Sigma, start: float, end: float, clock: Clock) -> Literal["before", "inside", "after"]:
    """Where σ is: inside if σ(end) < σ ≤ σ(start) for all samples' levels, in float32 as in ComfyUI."""
    level = sigma.float()
    first, last = (torch.tensor(clock(p), dtype=torch.float32) for p in (start, end))
    if (level <= last).any():
        return "after"
    return "before" if (level > first).any() else "inside"


def comparable(memory: Reuse | None, X: Tensor) -> Reuse:
    """What is remembered, if it is of inputs of X's shape and dtype; else nothing."""
    if memory is None or (memory.X is not None and (memory.X.shape, memory.X.dtype) != (X.shape, X.dtype)):
        return Reuse()
    return memory


def change_of(memory: Reuse, X: Tensor) -> Tensor | None:
    """mean|X − X̄|; None without X̄."""
    return None if memory.X is None else (X - memory.X).abs().mean()


def decided(memory: Reuse, change: Tensor | None, threshold: float) -> tuple[bool, Reuse]:
    """(whether this evaluation is left out, the memory with a). Waits for the device where ρ and N are known."""
    if change is None or memory.rate is None or memory.size is None:
        return False, memory
    a = memory.moved + float(memory.rate * change / memory.size)
    out = a < threshold
    return out, replace(memory, moved=a if out else 0.0)


def learned(memory: Reuse, X: Tensor, Y: Tensor, size: Tensor, change: Tensor | None) -> Reuse:
    """The memory of what was computed, without differences; ρ is known where there was a change to compare with."""
    rate = memory.rate if change is None or memory.Y is None else (Y - memory.Y).abs().mean() / change
    return replace(memory, X=X, Y=Y, size=size, rate=rate, d={})


def one_level(name: str, *sigmas: Tensor) -> None:
    """Raises ValueError for noise levels that vary within a sample, which are evaluated level by level."""
    if any(s.ndim and per_sample(s) is None for s in sigmas):
        raise ValueError(f"{name} needs one sigma per sample: leave it out where the noise level varies over a sample")


@dataclass(frozen=True)
class PatchKey:
    """A patch by its name and those of its parameters that are plain values."""

    name: str
    params: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, patch: Patch) -> PatchKey:
        """The key of a patch, the same in every process."""
        if not isinstance(patch, partial):
            return cls(getattr(patch, "__qualname__", type(patch).__qualname__))
        plain = {k: v for k, v in patch.keywords.items() if isinstance(v, (int, float, str, tuple))}
        return cls(cls.of(patch.func).name, tuple(sorted(plain.items())))

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.params)})"


@dataclass(frozen=True)
class CallKey:
    """What a network call is about: equal for the same question in other steps and other processes.

    Its text is a key for a memory.

    Args:
        roles: (role, number of rows that follow one another) of the call's conditionings.
        patches: The patches of the network.
        part: Conditionings and part of the latent, `Ctx.part`.
        number: Which of several such calls in an evaluation, where `max_rows` splits one.
    """

    roles: tuple[tuple[str, int], ...]
    patches: tuple[PatchKey, ...]
    part: tuple[Any, ...]
    number: int = 0

    @classmethod
    def of(cls, call: Call) -> CallKey:
        """The key of a network call, as the first of its kind in an evaluation."""
        roles = tuple((role, len(list(rows))) for role, rows in groupby(call.roles))
        return cls(roles, tuple(map(PatchKey.of, call.ctx.patches)), call.ctx.part)

    def __str__(self) -> str:
        roles = ", ".join(f"{count} {role}" for role, count in self.roles)
        return f"{roles}; {', '.join(map(str, self.patches))}; {self.part}; {self.number}"


@dataclass(frozen=True)
class Plan:
    """What EasyCache has decided for an evaluation: the calls so far, and whether they are left out."""

    calls: tuple[CallKey, ...] = ()
    out: bool = False


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

    ρ is the relative change of the output and the input between the last two that were computed, on every eighth
    position. The first rows of an evaluation decide for all of it; each prompt, perturbed or not, has a d of its own.
    Each evaluation waits once for the device.

    Args:
        network: The network.
        call: The call of it.
        reuse_threshold: The estimated relative change up to which calls are left out; 0 leaves none out.
        start_percent: Share of the way through sampling from which it acts.
        end_percent: Share of the way through sampling up to which it acts.

    Raises:
        ValueError: The noise level varies within a sample.
    """
    if not reuse_threshold:
        return network
    one_level("easycache", call.sigma, call.ctx.span.sigma)
    now = phase(call.sigma, start_percent, end_percent, call.ctx.span.sigma_at)
    if now != "inside":
        return network
    return partial(_cached, network, call, reuse_threshold)


def _cached(network: Network, call: Call, threshold: float, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    aux, about = call.ctx.aux, CallKey.of(call)
    plan: Plan = call.ctx.plan.get("easycache", Plan())
    key = str(replace(about, number=plan.calls.count(about)))
    leads, rows, change = not plan.calls, len(next(list(g) for _, g in groupby(call.roles))), None
    memory = EASYCACHE.read(aux) or Reuse()
    plan = replace(plan, calls=(*plan.calls, about))
    if leads:
        X = sampled(x[:rows])
        memory = comparable(memory if memory.leader == key else None, X)
        change = change_of(memory, X)
        out, memory = decided(memory, change, threshold)
        plan = replace(plan, out=out)
    call.ctx.plan["easycache"] = plan
    d = memory.d.get(key)
    if plan.out and d is not None and d.shape == x.shape:
        EASYCACHE.write(aux, memory)
        return x + d
    F = network(x, t, cond)
    if leads:  # what is remembered of other calls is of earlier evaluations, and dropped
        memory = learned(memory, sampled(x[:rows]), sampled(F[:rows]), F.abs().mean(), change)
        memory = replace(memory, leader=key)
    EASYCACHE.write(aux, replace(memory, d={**memory.d, key: F - x}))
    return F


@mod("lazycache", "around", "arXiv:2507.02860", one_sigma=True)
def lazycache(
    denoise: Denoiser, *, reuse_threshold: Threshold = 0.2, start_percent: Start = 0.15, end_percent: End = 0.95
) -> Denoiser:
    """LazyCache: EasyCache's rule for the whole guided prediction; where it is left out, D ≈ x + d.

        a ← a + ρ mean|x − x̄|/N,   leave out while a < reuse_threshold;   d = D(x̄) − x̄,   N = mean|D(x̄)|

    ρ is the relative change of D and of x between the last two that were computed, on every eighth position. Before
    start_percent it observes only. Other mods do not act in what is left out. Each evaluation waits once for the
    device.

    Args:
        denoise: The guided prediction.
        reuse_threshold: The estimated relative change up to which predictions are left out; 0 leaves none out.
        start_percent: Share of the way through sampling from which it acts.
        end_percent: Share of the way through sampling up to which it acts.

    Raises:
        ValueError: The noise level varies within a sample.
    """

    def cached(x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        one_level("lazycache", sigma, ctx.span.sigma)
        now = phase(sigma, start_percent, end_percent, ctx.span.sigma_at)
        if now == "after":
            return denoise(x, sigma, ctx)
        X, memory, change = sampled(x), LAZYCACHE.read(ctx.aux) or Reuse(), None
        if now == "inside":
            memory = comparable(memory, X)
            change = change_of(memory, X)
        out, memory = decided(memory, change, reuse_threshold)
        if out:
            LAZYCACHE.write(ctx.aux, memory)
            return Pred(**{name: x + d for name, d in memory.d.items()})
        pred = denoise(x, sigma, ctx)
        memory = learned(memory, X, sampled(pred.x0), pred.x0.abs().mean(), change)
        differences = {name: D - x for name, D in zip(Pred._fields, pred) if D is not None}
        LAZYCACHE.write(ctx.aux, replace(memory, d=differences))
        return pred

    return cached if reuse_threshold else denoise
