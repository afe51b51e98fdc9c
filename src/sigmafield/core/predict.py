"""What several prompts predict together, each made of conditionings that act in a part of the latent or the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import EllipsisType

import torch
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond, Prompt, same_adapters, same_controls
from sigmafield.core.fitting import transformed
from sigmafield.core.geometry import Box
from sigmafield.core.placement import Layout, box_of, place, weight
from sigmafield.core.protocols import Ctx, Model
from sigmafield.core.recent import Recent
from sigmafield.core.time_windows import within
from sigmafield.core.views import crop

EMPTY = 1e-37
"""Added to the sum of weights, so that positions without any give 0."""


@dataclass(frozen=True)
class Entry:
    """A conditioning that acts in an evaluation.

    Args:
        prompt: Number of its prompt.
        cond: A conditioning that fits the latent.
        box: The part of the latent that it acts in.
        weight: Its weights there, to broadcast over [B, C, *size]; None for a prompt's only conditioning, which acts
            everywhere.
    """

    prompt: int
    cond: Cond
    box: Box
    weight: Tensor | None = None

    @property
    def crop(self) -> tuple[slice | EllipsisType, ...]:
        """Index of the box in [B, C, *space]."""
        return (..., *self.box.index)


@dataclass(frozen=True)
class Placed:
    """Prompts in a latent of known size.

    Args:
        layout: Their conditionings.
        always: Where each prompt is one conditioning that always acts everywhere: what each network call evaluates.
    """

    layout: Layout
    always: Sequence[Sequence[Entry]] | None


Layouts = Recent[Placed]
"""Layouts that have been worked out: one value of it is kept for each guider."""


def _placed(prompts: Sequence[Prompt], space: Sequence[int]) -> Placed:
    """What is the same in every step, for `predict`."""
    layout = place(prompts, space)
    if not all(
        len(prompt) == 1 and prompt[0].window == (None, None) and _everywhere(prompt[0], None) for prompt in layout
    ):
        return Placed(layout, None)
    entries = [Entry(j, prompt[0], box_of(prompt[0], space)) for j, prompt in enumerate(layout)]
    return Placed(layout, groups(entries, by_position=True))


def predict(
    model: Model, x: Latent, sigma: Sigma, prompts: Sequence[Prompt], ctx: Ctx, layouts: Layouts | None = None
) -> list[Latent]:
    """Each prompt's clean latent: D = Σ w D_e/Σ w over its active conditionings e, 0 where it has none.

    Conditionings of equal crops and inputs share network calls; spatial inputs are cut to the crops. A crop without a
    position that `ctx.want` names is not evaluated. A prompt of one conditioning that acts everywhere costs a network
    call and nothing else.

    Args:
        model: The network.
        x: Noisy latent [B, C, *space].
        sigma: Its noise level.
        prompts: What it is asked about.
        ctx: The step.
        layouts: Layouts of these prompts that are known from earlier evaluations; None to work them out.
    """
    space = tuple(x.shape[2:])
    placed = (layouts or Layouts())(tuple(prompts), space, partial(_placed, prompts, space))
    evaluated = placed.always
    if evaluated is None or ctx.want is not None:
        entries = [entry for j, prompt in enumerate(placed.layout) for entry in _acting(j, prompt, x, sigma, ctx)]
        evaluated = groups(entries, bool(sigma.ndim) or ctx.want is not None)
    sums: dict[int, tuple[Latent, Latent]] = {}
    whole: dict[int, Latent] = {}
    for group in evaluated:
        for entry, D in zip(group, _ask(model, x, sigma, group, ctx)):
            if entry.weight is None:
                whole[entry.prompt] = D.to(x.dtype)
                continue
            w = entry.weight.to(x.device, x.dtype, non_blocking=True)
            total, count = sums.setdefault(entry.prompt, (torch.zeros_like(x), torch.full_like(x, EMPTY)))
            total[entry.crop] += D * w
            count[entry.crop] += w
    for j, (total, count) in sums.items():
        whole[j] = total.div_(count)
    return [whole[j] if j in whole else torch.zeros_like(x) for j in range(len(prompts))]


def _acting(j: int, prompt: Sequence[Cond], x: Latent, sigma: Sigma, ctx: Ctx) -> list[Entry]:
    """The conditionings of a prompt that are evaluated at σ, with their weights."""
    space, want = x.shape[2:], ctx.want
    if len(prompt) == 1 and prompt[0].window == (None, None):
        now = [(prompt[0], None)]
    else:
        now = [(c, inside) for c in prompt if (inside := within(c.window, sigma, ctx.span.sigma_at)).any()]
    if len(now) == 1 and _everywhere(*now[0]):
        asked = want is None or bool(want.any())
        return [Entry(j, now[0][0], box_of(now[0][0], space))] if asked else []
    out: list[Entry] = []
    rest = torch.ones(len(x), 1, *space)
    for cond, inside in now:
        if not cond.default:
            box, w = box_of(cond, space), weight(cond, len(x), space)
            at = (..., *box.index)
            w = w * inside[at] if sigma.ndim and inside is not None else w
            rest[at] -= w
            if want is None or (want[at] & (w != 0)).any():
                out.append(Entry(j, cond, box, w))
    defaults = [cond for cond, _ in now if cond.default]
    if defaults:
        rest = rest.clamp(min=0)
        if (rest if want is None else rest * want).any():
            out += [Entry(j, cond, box_of(cond, space), rest) for cond in defaults]
    return out


def _everywhere(cond: Cond, inside: Tensor | None) -> bool:
    """Whether a conditioning counts 1 in all of the latent; inside: where its window is open, None for everywhere."""
    plain = cond.area is None and cond.mask is None and cond.strength == 1 and not cond.default
    return plain and (inside is None or bool(inside.all()))


def _ask(model: Model, x: Latent, sigma: Sigma, group: Sequence[Entry], ctx: Ctx) -> list[Tensor]:
    """What a network predicts for the entries of one call."""
    whole = Box.at([0] * (x.ndim - 2), x.shape[2:])
    conds = [e.cond if e.box == whole else transformed(e.cond, crop(e.box)) for e in group]
    first, crops = group[0].crop, torch.cat([x if e.box == whole else x[e.crop] for e in group])
    want = None if ctx.want is None else ctx.want[first]
    about = tuple((e.prompt, e.box, e.cond.window) for e in group)
    return model(crops, sigma[first] if sigma.ndim else sigma, conds, replace(ctx, want=want, part=(*ctx.part, about)))


def groups(entries: Sequence[Entry], by_position: bool) -> list[list[Entry]]:
    """Entries that one network call can serve, the later ones of a group first, as in ComfyUI.

    Args:
        entries: All entries of an evaluation.
        by_position: Whether those of one call must lie at the same positions, and not only have equal sizes.
    """
    left, out = list(entries), list[list[Entry]]()
    while left:
        group = [e for e in left if _joins(left[0], e, by_position)]
        left = [e for e in left if not any(e is g for g in group)]
        out.append(group[::-1])
    return out


def _joins(a: Entry, b: Entry, by_position: bool) -> bool:
    """Whether two entries fit into one call: equal crops and inputs, except token counts up to a ratio of four."""
    if (a.box != b.box) if by_position else (a.box.size != b.box.size):
        return False
    one, other = a.cond, b.cond
    if one.extra.keys() != other.extra.keys() or not same_controls(one, other) or not same_adapters(one, other):
        return False
    if any(one.extra[key].shape[1:] != other.extra[key].shape[1:] for key in one.extra):
        return False
    if _channels(one) != _channels(other) or one.embeds.shape[2] != other.embeds.shape[2]:
        return False
    m, n = one.embeds.shape[1], other.embeds.shape[1]
    return math.lcm(m, n) <= 4 * min(m, n)


def _channels(cond: Cond) -> int:
    return 0 if cond.concat is None else cond.concat.shape[1]
