"""Guidance away from a worse prediction of the same prompt: one more evaluation, by another model."""

from __future__ import annotations

from dataclasses import dataclass

from sigmafield.core.arrays import Latent
from sigmafield.core.linear import lincomb
from sigmafield.core.predict import within
from sigmafield.core.protocols import Model
from sigmafield.guidance.hooks import Asked, Preds, choose


def away(p: Preds, W: Latent, scale: float) -> Latent:
    """D + scale (C − W): guidance away from a worse prediction."""
    return lincomb(1.0, p.D, scale, p.c, -scale, W)


@dataclass(frozen=True)
class Perturbed:
    """D + scale (C − W), where W is what a worse model makes of the positive prompt: a hook for `Mods.after`.

    model: a smaller or less trained network, or the same one with a part of it disturbed, under that network's own
    `Model`. At cfg = 1 this is autoguidance with weight 1 + scale. window: shares of the way through sampling between
    which it acts; outside, and with scale 0, there is no evaluation. Karras et al., arXiv:2406.02507.
    """

    model: Model
    scale: float = 1.0
    window: tuple[float | None, float | None] = (None, None)

    def __call__(self, p: Preds, at: Asked) -> Preds:
        inside = within(self.window, at.sigma, at.ctx.span.sigma_at)
        if not self.scale or not inside.any():
            return p
        worse = at.predict(self.model, at.positive)
        return p._replace(D=choose(inside, away(p, worse, self.scale), p.D))
