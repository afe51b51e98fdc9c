"""What several prompts predict together, each of conditionings that act in a part of the latent or of the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import EllipsisType

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Area, Cond, Control, Prompt, cropped, fit, fitted, same_controls
from sigmafield.core.process import Clock
from sigmafield.core.protocols import Ctx, Model

Entry = tuple[int, "Placed", Tensor]
"""Which prompt, a conditioning of it, and its weights."""

EMPTY = 1e-37
"""Added to the sum of weights, so that places without any give 0."""


@dataclass(frozen=True)
class Placed:
    """A conditioning with its box in a latent of known size: the size and offset along each axis of space."""

    cond: Cond
    size: tuple[int, ...]
    offset: tuple[int, ...]

    @property
    def crop(self) -> tuple[slice | EllipsisType, ...]:
        """Index of the box in [B, C, *space]."""
        return _index(self.size, self.offset)


def place(prompts: Sequence[Prompt], space: Sequence[int]) -> list[list[Placed]]:
    """Every prompt's conditionings in a latent of that size.

    For a conditioning with an area, each other prompt is given its own conditioning of the smallest box around that
    area, cut to it, so that all prompts' predictions are of equal crops, as in ComfyUI.
    """
    areas = [[(cond, cond.area) for cond in (fit(cond, space) for cond in prompt)] for prompt in prompts]
    for a, these in enumerate(areas):
        for b, those in enumerate(areas):
            if a != b:
                for cond, area in list(these):
                    if area is not None:
                        _mirror(cond, area, those)
    return [[Placed(cond, *_clipped(area, space)) for cond, area in prompt] for prompt in areas]


def _mirror(cond: Cond, area: Area, those: list[tuple[Cond, Area | None]]) -> None:
    """Give a prompt a conditioning for an area of another's, unless it has one of just that area."""
    best: tuple[Cond, Area | None] | None = None
    for other, around in those:
        if around is None:
            best = best or (other, around)
        elif _within(area, around) and (
            best is None or best[1] is None or math.prod(around.size) < math.prod(best[1].size)
        ):
            best = other, around
    if best is not None and best[1] != area:
        those.append((replace(cond, embeds=best[0].embeds, extra=best[0].extra, concat=best[0].concat), area))


def _within(inner: Area, outer: Area) -> bool:
    ends = zip(inner.offset, inner.size, outer.offset, outer.size)
    return all(o >= p and o + n <= p + m for o, n, p, m in ends)


def _index(size: Sequence[int], offset: Sequence[int]) -> tuple[slice | EllipsisType, ...]:
    return (..., *(slice(o, o + n) for o, n in zip(offset, size)))


def _clipped(area: Area | None, space: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(size, offset) of an area within the latent; an area of fewer axes spans the whole of the first ones."""
    if area is None:
        return tuple(space), tuple(0 for _ in space)
    lack = len(space) - len(area.size)
    size = [*space[:lack], *area.size] if lack >= 0 else area.size[: len(space)]
    offset = [*(0 for _ in range(lack)), *area.offset] if lack >= 0 else area.offset[: len(space)]
    size = tuple(min(n - int(o), int(s)) for s, o, n in zip(size, offset, space))
    if min(size) < 1:
        raise ValueError(f"the area {area.size} at {area.offset} lies outside of the latent's {tuple(space)}")
    return size, tuple(map(int, offset))


def weight(placed: Placed, batch: int, space: Sequence[int]) -> Tensor:
    """w of a conditioning in its box, to broadcast over [B, C, *crop]: mask and strength, or strength and feather.

    Made where the mask is, on the CPU as a rule, so that nothing waits for a device.
    """
    cond = placed.cond
    if cond.mask is not None:
        mask = fitted(cond.mask, space)[placed.crop].float() * (cond.mask_strength * cond.strength)
        if batch % len(mask):
            raise ValueError(f"a mask must be for 1 sample or a divisor of the batch {batch}; got {len(mask)}")
        return mask.repeat(batch // len(mask), *[1] * len(space))[:, None]
    w = torch.full((1, 1, *placed.size), cond.strength)
    if cond.area is None:
        return w
    for axis, (n, o, whole) in enumerate(zip(placed.size, placed.offset, space)):
        ramp = min(8, n // 4)
        line, rise = torch.ones(n), torch.arange(1, ramp + 1) / max(ramp, 1)
        if o:
            line[:ramp] *= rise
        if o + n < whole:
            line[n - ramp :] *= rise.flip(0)
        w = w * line.reshape(-1, *[1] * (len(space) - 1 - axis))
    return w


def active(cond: Cond | Control, sigma: Sigma, clock: Clock) -> Tensor:
    """Where σ lies in the window of a conditioning or a control; on the CPU, of σ's shape."""
    return within(cond.window, sigma, clock)


def within(window: tuple[float | None, float | None], sigma: Sigma, clock: Clock) -> Tensor:
    """Where σ lies between two shares of the way through sampling, ends included; None: without an end."""
    start, end = (None if p is None else clock(p) for p in window)
    inside = torch.ones_like(sigma, dtype=torch.bool)
    if start is not None:
        inside = inside & (sigma <= start)
    return inside if end is None else inside & (sigma >= end)


def predict(model: Model, x: Latent, sigma: Sigma, prompts: Sequence[Prompt], ctx: Ctx) -> list[Latent]:
    """Each prompt's clean latent: D = Σ w_e D_e/Σ w_e over its active conditionings, 0 where it has none.

    Conditionings of equal crops and inputs share network calls; spatial inputs are cut to the crops. A crop without
    a place that `ctx.want` names is not evaluated.
    """
    space, entries, want = x.shape[2:], [], ctx.want
    for j, prompt in enumerate(place(prompts, space)):
        now = [(p, inside) for p in prompt if (inside := active(p.cond, sigma, ctx.span.sigma_at)).any()]
        rest = torch.ones(len(x), 1, *space)
        for p, inside in now:
            if not p.cond.default:
                w = weight(p, len(x), space)
                w = w * inside[p.crop] if sigma.ndim else w
                rest[p.crop] -= w
                if want is None or (want[p.crop] & (w != 0)).any():
                    entries.append((j, p, w))
        if any(p.cond.default for p, _ in now):
            rest = rest.clamp(min=0)
            if (rest if want is None else rest * want).any():
                entries += [(j, p, rest) for p, _ in now if p.cond.default]
    sums, counts = [torch.zeros_like(x) for _ in prompts], [torch.full_like(x, EMPTY) for _ in prompts]
    for group in groups(entries, bool(sigma.ndim) or want is not None):
        conds = [cropped(p.cond, p.size, p.offset) for _, p, _ in group]
        crops, first = [x[p.crop] for _, p, _ in group], group[0][1].crop
        at = sigma[first] if sigma.ndim else sigma
        about = tuple((j, p.offset, p.cond.window) for j, p, _ in group)
        inner = replace(ctx, want=None if want is None else want[first], part=(*ctx.part, about))
        for (j, p, w), D in zip(group, model(torch.cat(crops), at, conds, inner)):
            w = w.to(x.device, x.dtype, non_blocking=True)
            sums[j][p.crop] += D * w
            counts[j][p.crop] += w
    return [total.div_(count) for total, count in zip(sums, counts)]


def groups(entries: Sequence[Entry], by_place: bool) -> list[list[Entry]]:
    """Entries that one network call can serve, the later ones of a group first, as in ComfyUI."""
    left, out = list(entries), []
    while left:
        first = left[0]
        group = [e for e in left if _joins(first[1], e[1], by_place)]
        left = [e for e in left if not any(e is g for g in group)]
        out.append(group[::-1])
    return out


def _joins(a: Placed, b: Placed, by_place: bool) -> bool:
    """Whether two conditionings fit into one call: equal crops and inputs, but for lengths of up to four times."""
    if a.size != b.size or (by_place and a.offset != b.offset) or a.cond.extra.keys() != b.cond.extra.keys():
        return False
    if any(a.cond.extra[key].shape[1:] != b.cond.extra[key].shape[1:] for key in a.cond.extra):
        return False
    if _channels(a.cond) != _channels(b.cond) or not same_controls(a.cond, b.cond):
        return False
    m, n = a.cond.embeds.shape[1], b.cond.embeds.shape[1]
    return a.cond.embeds.shape[2] == b.cond.embeds.shape[2] and math.lcm(m, n) <= 4 * min(m, n)


def _channels(cond: Cond) -> int:
    return 0 if cond.concat is None else cond.concat.shape[1]
