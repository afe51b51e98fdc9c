"""Guidance away from a worse prediction for the same prompt: one more evaluation, by another model."""

from __future__ import annotations

from dataclasses import dataclass

from sigmafield.core.arrays import Latent
from sigmafield.core.linear import lincomb
from sigmafield.core.protocols import Model
from sigmafield.core.time_windows import within
from sigmafield.guidance.hooks import Asked, Preds, choose


def away(p: Preds, W: Latent, scale: float) -> Latent:
    """D + scale (C − W): guidance away from a worse prediction."""
    return lincomb(1.0, p.D, scale, p.c, -scale, W)


@dataclass(frozen=True)
class Perturbed:
    """Autoguidance, a hook for `Mods.after`. Karras et al., arXiv:2406.02507.

        D ← D + scale (C − W),   W the prediction of a worse model for the positive prompt

    At cfg = 1 the paper's weight is 1 + scale. Outside the window, and with scale 0, the worse model is not evaluated.

    Args:
        model: A smaller or less trained network, or the same network with a part of it disturbed, as a `Model`.
        scale: How far away from the worse prediction.
        window: Shares of the way through sampling between which it acts.
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
