"""Guidance: a model asked about several prompts becomes one denoiser."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sigmafield.guidance.cond import Prompt, predict
from sigmafield.maths import lincomb
from sigmafield.types import Cond, Ctx, Latent, Model, Pred, Sigma


def prompt(given: Cond | Prompt) -> Prompt:
    """A prompt of one conditioning, or as it is."""
    return [given] if isinstance(given, Cond) else given


def is_one(scale: float) -> bool:
    """Whether a scale leaves out the prediction that it is against."""
    return math.isclose(scale, 1.0)


@dataclass(frozen=True)
class Guider:
    """Classifier-free guidance, D = U + cfg (C − U). Ho & Salimans, arXiv:2207.12598.

    positive, negative: a conditioning each, or several that act in parts of the latent or of the run.
    cfg = 1 is the positive prediction alone, and does not evaluate the negative unless the method needs it;
    negative None: always the positive alone.
    """

    model: Model
    positive: Cond | Prompt
    negative: Cond | Prompt | None = None
    cfg: float = 5.0

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        if self.negative is None or (is_one(self.cfg) and not ctx.need_uncond):
            (c,) = predict(self.model, x, sigma, [prompt(self.positive)], ctx)
            return Pred(c, c)
        c, u = predict(self.model, x, sigma, [prompt(self.positive), prompt(self.negative)], ctx)
        return Pred(lincomb(1 - self.cfg, u, self.cfg, c), c, u)


@dataclass(frozen=True)
class DualGuider:
    """Two prompts against a negative one, with a scale each: P, M and N are the predictions of the three.

        regular: D = N + cfg_negative (M − N) + cfg (P − M)
        nested:  D = N + cfg_negative (M + cfg (P − M) − N)

    Regular leaves out what scales of 1 make superfluous. InstructPix2Pix, arXiv:2211.09800.
    """

    model: Model
    first: Cond | Prompt
    second: Cond | Prompt
    negative: Cond | Prompt
    cfg: float = 8.0
    cfg_negative: float = 8.0
    nested: bool = False

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        P, M, N = (prompt(given) for given in (self.first, self.second, self.negative))
        if not self.nested and not ctx.need_uncond and is_one(self.cfg_negative):
            if is_one(self.cfg):
                (p,) = predict(self.model, x, sigma, [P], ctx)
                return Pred(p, p)
            p, m = predict(self.model, x, sigma, [P, M], ctx)
            return Pred(lincomb(1 - self.cfg, m, self.cfg, p), p)
        p, m, n = predict(self.model, x, sigma, [P, M, N], ctx)
        scale = self.cfg * self.cfg_negative if self.nested else self.cfg
        D = lincomb(1 - self.cfg_negative, n, self.cfg_negative - scale, m, scale, p)
        return Pred(D, p, m if self.nested else n)


@dataclass(frozen=True)
class PerpNegGuider:
    """Perp-Neg: the negative prompt acts only across the positive one. P, N, E: predictions, E of the empty prompt.

        D = E + cfg (p − neg_scale q⊥),   p = P − E,   q = N − E,   q⊥ = q − (q·p/‖p‖²) p

    The products run over the whole batch, as in ComfyUI: a sample depends on the others. arXiv:2304.04968.
    """

    model: Model
    positive: Cond | Prompt
    negative: Cond | Prompt
    empty: Cond | Prompt
    cfg: float = 8.0
    neg_scale: float = 1.0

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        prompts = [prompt(given) for given in (self.positive, self.empty, self.negative)]
        if math.isclose(self.neg_scale, 0.0, abs_tol=1e-9) and not ctx.need_uncond:
            if is_one(self.cfg):
                (P,) = predict(self.model, x, sigma, prompts[:1], ctx)
                return Pred(P, P)
            P, E = predict(self.model, x, sigma, prompts[:2], ctx)
            return Pred(lincomb(1 - self.cfg, E, self.cfg, P), P, E)
        P, E, N = predict(self.model, x, sigma, prompts, ctx)
        p, q = P - E, N - E
        across = q - (q * p).sum() / p.square().sum() * p
        return Pred(E + self.cfg * (p - self.neg_scale * across), P, N)
