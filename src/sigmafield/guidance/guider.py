"""Guidance: a model asked about several prompts becomes one denoiser."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond, Prompt
from sigmafield.core.linear import lincomb
from sigmafield.core.protocols import Ctx, Model, Pred
from sigmafield.guidance.hooks import Asked, Mods, Preds, Scale, all_one, classifier_free
from sigmafield.guidance.projection import Over, perpendicular


def prompt(given: Cond | Prompt, role: str) -> Prompt:
    """A prompt of one conditioning or several, each of which knows what it is to the guider."""
    return [replace(cond, role=role) for cond in ([given] if isinstance(given, Cond) else given)]


def number(cfg: float) -> Scale:
    """A scale as coefficients are kept: float64 on the CPU."""
    return torch.tensor(cfg, dtype=torch.float64)


@dataclass(frozen=True)
class Guider:
    """Classifier-free guidance, D = U + cfg (C − U), changed by `mods`. Ho & Salimans, arXiv:2207.12598.

    positive, negative: a conditioning each, or several that act in parts of the latent or of the run.
    cfg = 1 is the positive prediction alone, and does not evaluate the negative unless the sampler needs it;
    negative None: always the positive alone. mods: see `parse_mods`; empty: an empty prompt, for `perp_neg`.
    """

    model: Model
    positive: Cond | Prompt
    negative: Cond | Prompt | None = None
    cfg: float = 5.0
    mods: Mods = Mods()
    empty: Cond | Prompt | None = None

    def __post_init__(self) -> None:
        if self.mods.need_uncond and self.negative is None:
            raise ValueError("these mods of guidance need a negative prompt, if only an empty one")

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        return self.mods.rounded(self._guided)(x, sigma, ctx)

    def _guided(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        P = prompt(self.positive, "positive")
        N = None if self.negative is None else prompt(self.negative, "negative")
        E = None if self.empty is None else prompt(self.empty, "empty")
        cfg = number(1.0 if N is None else self.cfg)
        at = self.mods.asked(Asked(x, sigma, cfg, ctx, self.model, P, N, E))
        if N is None or (all_one(at.cfg) and not (ctx.need_uncond or self.mods.need_uncond)):
            (c,) = at.evaluate(P)
            return self.mods(Preds(c, None, c), at)
        c, u = at.evaluate(P, N)
        return self.mods(Preds(c, u, c), at)


@dataclass(frozen=True)
class DualGuider:
    """Two prompts against a negative one, with a scale each: P, M and N are the predictions of the three.

        regular: D = N + cfg_negative (M − N) + cfg (P − M)
        nested:  D = N + cfg_negative (M + cfg (P − M) − N)

    Regular leaves out what scales of 1 make superfluous. mods act on the inner pair: M against N, or nested P against
    M. InstructPix2Pix, arXiv:2211.09800.
    """

    model: Model
    first: Cond | Prompt
    second: Cond | Prompt
    negative: Cond | Prompt
    cfg: float = 8.0
    cfg_negative: float = 8.0
    nested: bool = False
    mods: Mods = Mods()

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        return self.mods.rounded(self._guided)(x, sigma, ctx)

    def _guided(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        P, M, N = prompt(self.first, "positive"), prompt(self.second, "middle"), prompt(self.negative, "negative")
        need_uncond = ctx.need_uncond or self.mods.need_uncond
        if self.nested:
            at = self.mods.asked(Asked(x, sigma, number(self.cfg), ctx, self.model, P, M))
            p, m, n = at.evaluate(P, M, N)
            inner = self.mods(Preds(p, m, p), at)
            D = lincomb(1 - self.cfg_negative, n, self.cfg_negative, inner.x0)
            return Pred(D, inner.cond, inner.uncond)
        at = self.mods.asked(Asked(x, sigma, number(self.cfg_negative), ctx, self.model, M, N))
        if all_one(at.cfg) and not need_uncond:
            if all_one(number(self.cfg)):
                (p,) = at.evaluate(P)
                return self.mods(Preds(p, None, p), at)
            p, m = at.evaluate(P, M)
            inner = self.mods(Preds(m, None, m), at)
        else:
            p, m, n = at.evaluate(P, M, N)
            inner = self.mods(Preds(m, n, m), at)
        return Pred(lincomb(1.0, inner.x0, self.cfg, p, -self.cfg, m), p, inner.uncond)


@dataclass(frozen=True)
class PerpNegGuider:
    """Perp-Neg: the negative prompt acts only across the positive one. P, N, E: predictions, E of the empty prompt.

        D = E + cfg (p − neg_scale q⊥),   p = P − E,   q = N − E,   q⊥ = q − (q·p/‖p‖²) p

    over: the products run over the whole batch, as in ComfyUI, where a sample depends on the others, or over each
    "sample". The rule combines: mods may act before and after it. Raises ValueError for one in its place.
    arXiv:2304.04968.
    """

    model: Model
    positive: Cond | Prompt
    negative: Cond | Prompt
    empty: Cond | Prompt
    cfg: float = 8.0
    neg_scale: float = 1.0
    over: Over = "batch"
    mods: Mods = Mods()

    def __post_init__(self) -> None:
        if self.mods.combine is not classifier_free:
            raise ValueError("PerpNegGuider combines by its own rule: give it mods that act before or after that only")

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        return self.mods.rounded(self._guided)(x, sigma, ctx)

    def _guided(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        P, E, N = prompt(self.positive, "positive"), prompt(self.empty, "empty"), prompt(self.negative, "negative")
        at = self.mods.asked(Asked(x, sigma, number(self.cfg), ctx, self.model, P, N, E))
        if not self.neg_scale and not (ctx.need_uncond or self.mods.need_uncond):
            if all_one(at.cfg):
                (c,) = at.evaluate(P)
                return self.mods(Preds(c, None, c), at)
            c, e = at.evaluate(P, E)
            guided = self.mods(Preds(c, e, c), at)
            return Pred(guided.x0, guided.cond, e)
        c, e, u = at.evaluate(P, E, N)
        rule = partial(perpendicular, E=e, neg_scale=self.neg_scale, over=self.over)
        return replace(self.mods, combine=rule)(Preds(c, u, c), at)
