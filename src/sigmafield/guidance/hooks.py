"""Where guidance may be changed: four places between the network's predictions and what a method is given.

A mod is a plain function of the predictions and of what was asked; its own parameters are keywords:

    scale:    (at)    → cfg          the scale as a function of σ, before anything is evaluated
    before:   (p, at) → p            changes the predictions C and U
    combine:  (p, at) → p            takes the place of D = U + cfg (C − U); there is one
    after:    (p, at) → p            changes D

Memory between calls goes in `at.ctx.aux`, so that a run resumes bit-exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from sigmafield.guidance.cond import Prompt, predict
from sigmafield.maths import lincomb
from sigmafield.types import Ctx, Latent, Model, Pred, Sigma

Scale = Float64[Tensor, "*scale"]
"""A guidance scale: float64 on the CPU, 0-d or of σ's shape."""


class Preds(NamedTuple):
    """Clean latents at one point of guidance: c positive, u negative, D guided.

    u is None where the negative prompt was not evaluated; D is c until they are combined.
    """

    c: Latent
    u: Latent | None
    D: Latent

    @property
    def against(self) -> Latent:
        """u, and zeros where it was not evaluated: what ComfyUI's mods find there."""
        return torch.zeros_like(self.c) if self.u is None else self.u


@dataclass(frozen=True)
class Asked:
    """One guided prediction, as a mod may know it.

    x, sigma: where; cfg: the scale; ctx: the step, and memory in `ctx.aux`;
    model, positive, negative, empty: for mods that need one prediction more, with `predict`.
    """

    x: Latent
    sigma: Sigma
    cfg: Scale
    ctx: Ctx
    model: Model
    positive: Prompt
    negative: Prompt | None = None
    empty: Prompt | None = None

    def predict(self, model: Model, prompt: Prompt) -> Latent:
        """A prompt's clean latent at this x and σ: one evaluation more."""
        (D,) = predict(model, self.x, self.sigma, [prompt], self.ctx)
        return D


ScaleHook = Callable[[Asked], Scale]
"""Another scale for what is asked; `Asked.cfg` is the one so far."""

Hook = Callable[[Preds, Asked], Preds]
"""Other predictions."""


def is_one(scale: Scale) -> Tensor:
    """Where a scale leaves out the prediction that it is against; on the CPU."""
    return (scale - 1).abs() <= 1e-9


def all_one(scale: Scale) -> bool:
    """Whether a scale leaves it out everywhere."""
    return bool(is_one(scale).all()) if scale.ndim else math.isclose(scale.item(), 1.0)


def choose(where: Tensor, a: Latent, b: Latent) -> Latent:
    """a where a condition on σ holds, b elsewhere; the condition is on the CPU, 0-d or a field."""
    if where.ndim:
        return torch.where(where.to(a.device, non_blocking=True), a, b)
    return a if where else b


def classifier_free(p: Preds, at: Asked) -> Preds:
    """Classifier-free guidance, D = U + cfg (C − U); C alone where U was not evaluated. arXiv:2207.12598."""
    return p if p.u is None else p._replace(D=lincomb(1 - at.cfg, p.u, at.cfg, p.c))


@dataclass(frozen=True)
class Mods:
    """What is done to predictions, in the order in which it is done: scale, before, combine, after.

    Where a scale hook takes cfg to 1 there is no guidance: D = C, and `before` and `combine` do not act.
    """

    scale: tuple[ScaleHook, ...] = ()
    before: tuple[Hook, ...] = ()
    combine: Hook = classifier_free
    after: tuple[Hook, ...] = ()

    def scaled(self, at: Asked) -> Asked:
        """What was asked, with the scale that holds at its σ."""
        for hook in self.scale:
            at = replace(at, cfg=hook(at))
        return at

    def __call__(self, p: Preds, at: Asked) -> Pred:
        off = is_one(at.cfg) if self.scale else None
        if off is None or not off.all():
            C = p.c
            for hook in self.before:
                p = hook(p, at)
            p = self.combine(p._replace(D=p.c), at)
            if off is not None:
                p = p._replace(D=choose(off, C, p.D))
        for hook in self.after:
            p = hook(p, at)
        return Pred(p.D, p.c, p.u)
