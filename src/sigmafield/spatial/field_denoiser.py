"""σ-fields on networks that take one noise level per sample: what they are shown instead, by one of three rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.geometry import Tile, Window, gaussian, places
from sigmafield.core.linear import lincomb
from sigmafield.core.process import Process
from sigmafield.core.protocols import Ctx, Denoiser, Pred


class Pass(NamedTuple):
    """One evaluation: the level that the latent is brought to, where it is wanted, and how much it counts there.

    level: 0-d, or [B, 1, *space] that is the same over each sample, or the field itself for a network that takes it.
    weight: [B or 1, 1, *space], 0 where it does not count; those of a place need not sum to 1.
    """

    level: Sigma
    want: Bool[Tensor, "batch 1 *space"]
    weight: Float64[Tensor, "batch 1 *space"]


Rule = Callable[[Sigma, Tensor], Sequence[Pass]]
"""(σ-field, which places change in this interval) → the evaluations to make."""


def native(sigma: Sigma, active: Tensor) -> Sequence[Pass]:
    """One evaluation with the field itself, for networks that take a noise level per token or frame."""
    return [Pass(sigma, active, active.double())] if active.any() else []


def by_level(sigma: Sigma, active: Tensor) -> Sequence[Pass]:
    """One evaluation for each level that there is among the places that change: exact, and as dear as levels differ.

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
    """One evaluation for each level among the tiles: a tile is at the median level of its core's places that change.

    Blended by w_t exp(−ln(σ_t/σ)²/(2 trust²)) over the tiles: predictions made at about a place's own level count
    most; trust = inf: by the window alone, which is unstable where neighbours' levels differ by more than 5 times.
    With a `Tiled` network of the same tiles each tile is evaluated once, whatever the field is: approximate where a
    core has several levels and where tiles overlap.
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
                canvas, inside = places(tile, height, width)
                corner = (..., slice(tile.core.y, tile.core.y + 1), slice(tile.core.x, tile.core.x + 1))
                chosen = served[corner] == (level[corner] if level.ndim else level)
                weight[canvas] += chosen * window(tile.box.height, tile.box.width)[inside]
            apart = (level / torch.where(sigma > 0, sigma, 1.0)).log()
            weight = weight * (-(apart**2) / (2 * trust**2)).exp() * active
            passes.append(Pass(level, want, torch.where(want, weight.clamp(min=1e-30), weight)))
        return passes

    return rule


@dataclass(frozen=True)
class Served:
    """A denoiser for σ-fields, from one for numbers: the latent is brought to a level, evaluated there, composed.

        x̃ = x                              where σ is that level
        x̃ = D₋ + (κ/σ)(x − D₋)             at another level: the noise that is in x, scaled; D₋ the last prediction
        x̃ = α_κ D₋ + κ ξ                   where a place waits or has finished, σ = 0; D₋ = the source at first

    latent: the source, [B, C, *space]; noise: ξ of the whole run; rule: which evaluations, `by_level` (exact),
    `by_tile(…)` or `native`. Places that wait are the source, at whatever level the network is asked; what does not
    change in an interval is not wanted of the network, and nothing is evaluated where nothing changes. Put it around
    masks: Served(Inpaint(Guider(…))).
    """

    denoise: Denoiser
    latent: Latent
    noise: Latent
    process: Process
    rule: Rule = by_level

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        if not sigma.ndim:
            return self.denoise(x, sigma, ctx)
        span, known = ctx.span, ctx.aux.get(MEMORY, self.latent)
        active = ~span.frozen
        anew = (sigma == 0) | (span.frozen & (span.at(-span.i).sigma == span.sigma))
        passes = self.rule(sigma, active)
        preds = []
        for level, want, _ in passes:
            at = brought(x, sigma, level, known, self.noise, self.process, anew)
            preds.append(self.denoise(at, level, replace(ctx, want=None if want.all() else want)))
        total = sum((p.weight for p in passes), torch.zeros_like(sigma))
        shares = [torch.where(active, p.weight / torch.where(active, total, 1.0), 0.0) for p in passes]

        def composed(answers: Sequence[Latent]) -> Latent:
            if len(answers) == 1 and active.all():
                return answers[0]
            return lincomb((~active).double(), known, *(v for pair in zip(shares, answers) for v in pair))

        ctx.aux[MEMORY] = x0 = composed([p.x0 for p in preds])
        cond = [p.cond for p in preds if p.cond is not None]
        uncond = [p.uncond for p in preds if p.uncond is not None]
        return Pred(x0, *(composed(given) if len(given) == len(preds) else None for given in (cond, uncond)))


MEMORY = "field_x0"
"""Name in `Ctx.aux` of the last prediction."""


def brought(
    x: Latent, sigma: Sigma, level: Tensor, known: Latent, noise: Latent, process: Process, anew: Tensor
) -> Latent:
    """x at another level, where `known` is the clean latent: see `Served`."""
    if level is sigma or (sigma == level).all():
        return x
    same = (sigma == level) & ~anew
    ratio = torch.where(anew | same, 1.0, level / torch.where(sigma == 0, 1.0, sigma))
    fresh = torch.where(anew, 1.0, 0.0)
    return lincomb(
        torch.where(anew, 0.0, ratio), x, torch.where(anew, process.alpha(level), 1 - ratio), known,
        fresh * level, noise,
    )  # fmt: skip
