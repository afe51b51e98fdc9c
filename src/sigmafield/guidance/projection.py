"""Mods that act by direction: the parts of one prediction along another and across it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from sigmafield.core.arrays import Latent
from sigmafield.core.linear import lincomb
from sigmafield.core.memory import Slot
from sigmafield.core.parameters import Range
from sigmafield.core.statistics import TINY, inner, norm
from sigmafield.guidance.hooks import Asked, Preds
from sigmafield.guidance.registry import mod

Over = Literal["batch", "sample"]


@dataclass(frozen=True)
class Momentum:
    """The running difference Δ of `apg`, and the noise level at which it was made."""

    difference: Latent
    sigma: float


APG = Slot("apg", Momentum)


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
    """Adaptive projected guidance: less of the difference of the predictions is along C.

        Δ ← (C − U) + β Δ₋,   β = momentum;   Δ₋ the Δ of the call before, 0 where σ rises
        Δ' = Δ⊥ + η Δ∥ of Δ min(1, τ/‖Δ‖), along C;   η = eta, τ = norm_threshold
        C ← U + (C − U + w Δ')/cfg,   so that plain guidance gives D = C + w Δ'

    With η = 1, τ = 0 and β = 0 the form paper is plain guidance, and none at cfg = 1. Where U was not evaluated the
    form comfyui takes it for 0, as ComfyUI does.

    Args:
        p: The predictions.
        at: What was asked.
        eta: Factor of the part of the difference along C.
        norm_threshold: Norm to which each sample's difference is limited; 0 for no limit.
        momentum: Factor of the previous call's difference that is added.
        form: paper, w = cfg − 1; comfyui, w = cfg, which is a scale of 1 more than asked for.
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
    """The running sum of differences, kept in the run's memory; it starts over where σ rises."""
    level, last = float(at.sigma.max()), APG.read(at.ctx.aux)
    known = last is not None and level <= last.sigma
    total = lincomb(1.0, difference, momentum, last.difference) if last is not None and known else difference
    APG.write(at.ctx.aux, Momentum(total, level))
    return total


@mod("tcfg", "before", "arXiv:2503.18137")
def tcfg(p: Preds, at: Asked) -> Preds:
    """Tangential damping: the negative residual is reduced to its part along the main direction of both.

        U ← x − ⟨x − U, v⟩ v,   v the first right singular vector of [x − U; x − C]
          = x − ½ (1 + (a − d)/R) (x − U) − (b/R) (x − C)
        a = ‖x − U‖²,   b = ⟨x − U, x − C⟩,   d = ‖x − C‖²,   R = √((a − d)² + 4 b²)

    Without U nothing is changed.
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
    """Perp-Neg: the negative prompt acts only across the positive one, both taken against an empty prompt.

        D = E + cfg (c − neg_scale u⊥),   c = C − E,   u = U − E,   u⊥ = u − (u·c/‖c‖²) c

    E is an evaluation of its own; `PerpNegGuider` makes it in the same network call. At cfg = 1 there is no U, and
    D = C.

    Args:
        p: The predictions.
        at: What was asked.
        neg_scale: Factor of the negative prompt.
        over: Whether products run over the whole batch, as in ComfyUI, where a sample depends on the others, or over
            each sample.

    Raises:
        ValueError: The guider has no empty prompt.
    """
    if at.empty is None:
        raise ValueError("perp_neg needs an empty prompt: Guider(..., empty=...)")
    if p.u is None:
        return p
    return perpendicular(p, at, E=at.predict(at.model, at.empty), neg_scale=neg_scale, over=over)
