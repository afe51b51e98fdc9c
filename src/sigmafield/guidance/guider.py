"""Guidance: a model asked under several conditionings becomes one denoiser."""

from __future__ import annotations

from dataclasses import dataclass

from sigmafield.maths import lincomb
from sigmafield.types import Cond, Ctx, Latent, Model, Pred, Sigma


@dataclass(frozen=True)
class Guider:
    """Classifier-free guidance, D = U + cfg (C − U). Ho & Salimans, arXiv:2207.12598.

    cfg = 1 is the conditional prediction alone, and does not evaluate the negative unless the method needs it.
    """

    model: Model
    positive: Cond
    negative: Cond
    cfg: float = 5.0

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        if self.cfg == 1 and not ctx.need_uncond:
            (c,) = self.model(x, sigma, [self.positive], ctx)
            return Pred(c, c)
        c, u = self.model(x, sigma, [self.positive, self.negative], ctx)
        return Pred(lincomb(1 - self.cfg, u, self.cfg, c), c, u)
