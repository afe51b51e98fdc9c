"""Mods that act by direction: what of one prediction is along another, and what across."""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from sigmafield.core.arrays import Latent
from sigmafield.core.linear import lincomb
from sigmafield.core.parameters import Range
from sigmafield.core.statistics import TINY, inner, norm
from sigmafield.guidance.hooks import Asked, Preds
from sigmafield.guidance.registry import mod

Over = Literal["batch", "sample"]


@mod("apg", "before", "arXiv:2410.02416")
def apg(
    p: Preds,
    at: Asked,
    *,
    eta: Annotated[float, Range(-10, 10)] = 1.0,
    norm_threshold: Annotated[float, Range(0, 50)] = 5.0,
    momentum: Annotated[float, Range(-5, 1)] = 0.0,
    form: Literal["comfyui", "paper"] = "comfyui",
) -> Preds:
    """Adaptive projected guidance: of the difference of the predictions, less of what is along C.

        Δ ← (C − U) + β Δ₋,   β = momentum;   Δ₋ is the Δ of the call before, none where σ rises
        Δ' = Δ⊥ + η Δ∥ of Δ min(1, τ/‖Δ‖), along C;   η = eta, τ = norm_threshold, 0 for none
        C ← U + (C − U + w Δ')/cfg,   so that plain guidance gives D = C + w Δ'

    form: paper, w = cfg − 1; comfyui, w = cfg, a scale of one more than asked for: with η = 1, τ = 0, β = 0 the first
    is plain guidance, and cfg = 1 none. Where U was not evaluated comfyui takes it for 0, as ComfyUI does.
    """
    if p.u is None and form == "paper":
        return p
    u = p.against
    difference = p.c - u
    d = _averaged(difference, at, momentum) if momentum else difference
    if norm_threshold > 0:
        d = d * (norm_threshold / norm(d)).clamp(max=1)
    unit = p.c / norm(p.c).clamp(min=TINY)
    d = d + (eta - 1) * inner(d, unit) * unit
    share = torch.where(at.cfg == 0, 0.0, 1 / at.cfg)
    w = at.cfg if form == "comfyui" else at.cfg - 1
    return p._replace(c=lincomb(1.0, u, share, difference, share * w, d))


def _averaged(difference: Latent, at: Asked, momentum: float) -> Latent:
    """The running sum of differences, kept in `ctx.aux`; it begins anew where σ rises."""
    aux, level = at.ctx.aux, float(at.sigma.max())
    before = aux.get("apg.difference") if level <= aux.get("apg.sigma", level) else None
    total = difference if before is None else lincomb(1.0, difference, momentum, before)
    aux["apg.difference"], aux["apg.sigma"] = total, level
    return total


@mod("tcfg", "before", "arXiv:2503.18137")
def tcfg(p: Preds, at: Asked) -> Preds:
    """Tangential damping: of the negative residual, only what is along the main direction of both.

        U ← x − ⟨x − U, v⟩ v,   v: the first right singular vector of [x − U; x − C]

    With a = ‖x − U‖², b = ⟨x − U, x − C⟩, d = ‖x − C‖² and R = √((a − d)² + 4 b²) that is
    x − ½ (1 + (a − d)/R) (x − U) − (b/R) (x − C). Without U nothing is done.
    """
    if p.u is None:
        return p
    u, c = at.x - p.u, at.x - p.c
    a, b, d = (inner(*pair) for pair in ((u.double(), u.double()), (u.double(), c.double()), (c.double(), c.double())))
    R = torch.hypot(a - d, 2 * b).clamp(min=TINY)
    along, onto = (((1 + (a - d) / R) / 2).to(u.dtype), (b / R).to(u.dtype))
    return p._replace(u=at.x - along * u - onto * c)


def perpendicular(p: Preds, at: Asked, *, E: Latent, neg_scale: float, over: Over) -> Preds:
    """Perp-Neg's rule with the empty prompt's prediction E: see `perp_neg`. Without U, D = C."""
    if p.u is None:
        return p
    c, u = p.c - E, p.u - E
    overlap, length = ((u * c).sum(), c.square().sum()) if over == "batch" else (inner(u, c), inner(c, c))
    across = u - overlap / length.clamp(min=TINY) * c
    return p._replace(D=E + lincomb(at.cfg, c - neg_scale * across))


@mod("perp_neg", "combine", "arXiv:2304.04968", evals=1)
def perp_neg(p: Preds, at: Asked, *, neg_scale: Annotated[float, Range(0, 100)] = 1.0, over: Over = "batch") -> Preds:
    """Perp-Neg: the negative prompt acts only across the positive one; an empty prompt is what both are against.

        D = E + cfg (c − neg_scale u⊥),   c = C − E,   u = U − E,   u⊥ = u − (u·c/‖c‖²) c

    over: the products run over the whole batch, as in ComfyUI, where a sample depends on the others, or over each
    "sample". E is an evaluation of its own. At cfg = 1 there is no U, and D = C. Raises ValueError for a guider without
    an empty prompt. `PerpNegGuider` is the same in one network call.
    """
    if at.empty is None:
        raise ValueError("perp_neg needs an empty prompt: Guider(..., empty=...)")
    if p.u is None:
        return p
    return perpendicular(p, at, E=at.predict(at.model, at.empty), neg_scale=neg_scale, over=over)
