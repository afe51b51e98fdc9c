"""σ-fields on networks that take one noise level per sample: what they are given instead, by one of three rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.geometry import Tile, Window, gaussian
from sigmafield.core.linear import lincomb
from sigmafield.core.memory import Slot
from sigmafield.core.process import Process
from sigmafield.core.protocols import Ctx, Denoiser, Pred


class Pass(NamedTuple):
    """One evaluation: the level that the latent is brought to, where it is wanted, and how much it counts there.

    level: 0-d, or [B, 1, *space] that does not vary within a sample, or the field itself for a network that takes it;
    want: where its prediction is used; weight: 0 where it does not count; weights of a position need not sum to 1.
    """

    level: Sigma
    want: Bool[Tensor, "batch 1 *space"]
    weight: Float64[Tensor, "batch 1 *space"]


Rule = Callable[[Sigma, Tensor], Sequence[Pass]]
"""(σ-field, which positions change in this interval) → the evaluations to make."""


def native(sigma: Sigma, active: Tensor) -> Sequence[Pass]:
    """One evaluation with the field itself, for networks that take a noise level per token or frame."""
    return [Pass(sigma, active, active.double())] if active.any() else []


def by_level(sigma: Sigma, active: Tensor) -> Sequence[Pass]:
    """One evaluation for each level among the positions that change: exact; cost grows with the number of levels.

    Samples of a batch have levels of their own; the first evaluation is at the largest of each.
    """
    own = [s[a].unique().flip(0) for s, a in zip(sigma, active)]
    top = max((float(s[0]) for s in own if len(s)), default=0.0)  # for samples that wait
    passes = []
    for k in range(max(map(len, own))):
        row = [float(s[min(k, len(s) - 1)]) if len(s) else top for s in own]
        level = torch.tensor(row, dtype=torch.float64).reshape(-1, *[1] * (sigma.ndim - 1))
        due = torch.tensor([k < len(s) for s in own]).reshape(level.shape)
        here = active & (sigma == level) & due
        passes.append(Pass(level.flatten()[0] if len(set(row)) == 1 else level.expand_as(sigma), here, here.double()))
    return passes


def by_tile(tiles: Sequence[Tile], window: Window = gaussian, trust: float = 1.0) -> Rule:
    """One evaluation for each level among the tiles: a tile's is the median level of its core's changing positions.

        D = Σ_t w_t exp(−ln(σ_t/σ)²/(2 trust²)) D_t/Σ …

    Predictions made near a position's own level count most. With a `Tiled` network of the same tiles each tile is
    evaluated once, whatever the field: approximate where a core has several levels and where tiles overlap.

    Args:
        tiles: Tiles that cover the latent.
        window: Weights w within a tile.
        trust: How far a level may be from a position's own; inf for the window's weights alone, which is unstable
            where levels of neighbours differ by a factor of more than 5.
    """

    def rule(sigma: Sigma, active: Tensor) -> Sequence[Pass]:
        served = sigma.clone()
        for tile in tiles:
            core = (..., *tile.core.index)
            for b in range(len(sigma)):
                changing = sigma[b][core][active[b][core]]
                served[b][core] = changing.median() if len(changing) else 0.0
        height, width = sigma.shape[-2:]
        passes = []
        for level, want, _ in by_level(served, active):
            weight = torch.zeros_like(sigma)
            for tile in tiles:
                canvas, inside = tile.indices(height, width)
                corner = (..., slice(tile.core.y, tile.core.y + 1), slice(tile.core.x, tile.core.x + 1))
                chosen = served[corner] == (level[corner] if level.ndim else level)
                weight[canvas] += chosen * window(tile.box.height, tile.box.width)[inside]
            apart = (level / torch.where(sigma > 0, sigma, 1.0)).log()
            weight = weight * (-(apart**2) / (2 * trust**2)).exp() * active
            passes.append(Pass(level, want, torch.where(want, weight.clamp(min=1e-30), weight)))
        return passes

    return rule


@dataclass(frozen=True)
class Known:
    """The last prediction of a run with a σ-field."""

    x0: Latent


KNOWN = Slot("field", Known)
"""Where `Served` keeps it in a run's memory."""


@dataclass(frozen=True)
class Served:
    """A denoiser for σ-fields, from one for numbers: the latent is brought to each level κ, evaluated, and composed.

        x̃ = x                              where σ is that level
        x̃ = D₋ + (κ/σ)(x − D₋)             at another level: the noise in x, scaled; D₋ the last prediction
        x̃ = α_κ D₋ + κ ξ                   where a position waits or has finished, σ = 0; D₋ = the source at first

    Positions that wait are the source, at whatever level the network is asked. Nothing is evaluated for what does not
    change in an interval. It goes around masks: Served(Inpaint(Guider(…))).

    Args:
        denoise: The denoiser for numbers.
        latent: The source [B, C, *space].
        noise: ξ of the whole run.
        process: The noise process.
        rule: Which evaluations to make: `by_level` (exact), `by_tile(…)` or `native`.
    """

    denoise: Denoiser
    latent: Latent
    noise: Latent
    process: Process
    rule: Rule = by_level

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        if not sigma.ndim:
            return self.denoise(x, sigma, ctx)
        span, last = ctx.span, KNOWN.read(ctx.aux)
        known = self.latent if last is None else last.x0
        active = ~span.frozen
        fresh = (sigma == 0) | (span.frozen & (span.at(-span.i).sigma == span.sigma))
        passes = self.rule(sigma, active)
        preds = []
        for level, want, _ in passes:
            at = brought(x, sigma, level, known, self.noise, self.process, fresh)
            preds.append(self.denoise(at, level, replace(ctx, want=None if want.all() else want)))
        total = sum((p.weight for p in passes), torch.zeros_like(sigma))
        shares = [torch.where(active, p.weight / torch.where(active, total, 1.0), 0.0) for p in passes]

        def composed(answers: Sequence[Latent]) -> Latent:
            if len(answers) == 1 and active.all():
                return answers[0]
            return lincomb((~active).double(), known, *(v for pair in zip(shares, answers) for v in pair))

        x0 = composed([p.x0 for p in preds])
        KNOWN.write(ctx.aux, Known(x0))
        cond = [p.cond for p in preds if p.cond is not None]
        uncond = [p.uncond for p in preds if p.uncond is not None]
        return Pred(x0, *(composed(given) if len(given) == len(preds) else None for given in (cond, uncond)))


def brought(
    x: Latent, sigma: Sigma, level: Tensor, known: Latent, noise: Latent, process: Process, fresh: Tensor
) -> Latent:
    """x at another level, where `known` is the clean latent: see `Served`.

    Args:
        x: Noisy latent.
        sigma: Its levels.
        level: The level that it is brought to.
        known: The last prediction of the clean latent.
        noise: ξ of the whole run.
        process: The noise process.
        fresh: Where it is made from `known` and ξ instead of x.
    """
    if level is sigma or (sigma == level).all():
        return x
    same = (sigma == level) & ~fresh
    ratio = torch.where(fresh | same, 1.0, level / torch.where(sigma == 0, 1.0, sigma))
    return lincomb(
        torch.where(fresh, 0.0, ratio), x, torch.where(fresh, process.alpha(level), 1 - ratio), known,
        torch.where(fresh, 1.0, 0.0) * level, noise,
    )  # fmt: skip
