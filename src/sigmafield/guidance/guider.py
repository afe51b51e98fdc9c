"""Guidance: a model that is asked about several prompts becomes one denoiser."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Cond, Prompt
from sigmafield.core.linear import lincomb
from sigmafield.core.predict import Layouts
from sigmafield.core.protocols import Ctx, Model, Pred
from sigmafield.guidance.hooks import Asked, Mods, Preds, Scale, all_one, classifier_free, needs_negative
from sigmafield.guidance.projection import Over, perpendicular


def prompt(given: Cond | Prompt, role: str) -> Prompt:
    """A prompt of one conditioning or several, each of which knows what it is to the guider."""
    return tuple(replace(cond, role=role) for cond in ([given] if isinstance(given, Cond) else given))


def number(cfg: float) -> Scale:
    """A scale as coefficients are kept: float64 on the CPU."""
    return torch.tensor(cfg, dtype=torch.float64)


@dataclass(frozen=True)
class Guider:
    """Classifier-free guidance, changed by mods. Ho & Salimans, arXiv:2207.12598.

        D = U + cfg (C − U)

    A scale of 1 gives the positive prediction alone, and the negative prompt is not evaluated unless the sampler or a
    mod needs it.

    Args:
        model: The network.
        positive: A conditioning, or several that act in parts of the latent or of the run.
        negative: The same, for U; None: the positive prediction alone, whatever the scale.
        cfg: The scale.
        mods: What is changed, see `recipes.mods.parse_mods`.
        empty: The same, of an empty prompt, for `perp_neg`.

    Raises:
        ValueError: A mod needs a negative prompt, and none is given.
    """

    model: Model
    positive: Cond | Prompt
    negative: Cond | Prompt | None = None
    cfg: float = 5.0
    mods: Mods = Mods()
    empty: Cond | Prompt | None = None
    layouts: Layouts = field(default_factory=Layouts, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mods.need_uncond and self.negative is None:
            raise ValueError("these mods of guidance need a negative prompt, if only an empty one")

    @cached_property
    def prompts(self) -> tuple[Prompt, Prompt | None, Prompt | None]:
        """(positive, negative, empty), each conditioning with its role."""
        return (
            prompt(self.positive, "positive"),
            None if self.negative is None else prompt(self.negative, "negative"),
            None if self.empty is None else prompt(self.empty, "empty"),
        )

    @cached_property
    def scale(self) -> Scale:
        """The scale as it is before the mods: 1 without a negative prompt."""
        return number(1.0 if self.negative is None else self.cfg)

    def evaluated(self, cfg: Scale, need_uncond: bool) -> list[Prompt]:
        """The prompts of one evaluation, the positive one first.

        Args:
            cfg: The scale at σ.
            need_uncond: Whether the sampler needs the unconditional prediction.
        """
        P, N, _ = self.prompts
        return [P, N] if N is not None and needs_negative(cfg, need_uncond or self.mods.need_uncond) else [P]

    def asked(self, need_uncond: bool) -> list[Prompt]:
        """Every prompt that a guided prediction at the guider's own scale asks about, once for each evaluation."""
        prompts = self.evaluated(number(self.cfg), need_uncond)
        return prompts[:1] * self.mods.evals + prompts

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        return self.mods.rounded(self._guided)(x, sigma, ctx)

    def _guided(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        P, N, E = self.prompts
        at = self.mods.asked(Asked(x, sigma, self.scale, ctx, self.model, P, N, E, layouts=self.layouts))
        c, *u = at.evaluate(*self.evaluated(at.cfg, ctx.need_uncond))
        return self.mods(Preds(c, u[0] if u else None, c), at)


@dataclass(frozen=True)
class DualGuider:
    """Two prompts against a negative one, with a scale each: P, M and N are the predictions of the three.

        regular: D = N + cfg_negative (M − N) + cfg (P − M)
        nested:  D = N + cfg_negative (M + cfg (P − M) − N)

    Regular does not evaluate prompts that drop out at scales of 1. InstructPix2Pix, arXiv:2211.09800.

    Args:
        model: The network.
        first: The prompt of P.
        second: The prompt of M.
        negative: The prompt of N.
        cfg: Scale of the first prompt against the second.
        cfg_negative: Scale of the second prompt against the negative one.
        nested: Which of the two rules.
        mods: They act on the inner pair: M against N, or in the nested rule P against M.
    """

    model: Model
    first: Cond | Prompt
    second: Cond | Prompt
    negative: Cond | Prompt
    cfg: float = 8.0
    cfg_negative: float = 8.0
    nested: bool = False
    mods: Mods = Mods()
    layouts: Layouts = field(default_factory=Layouts, init=False, repr=False, compare=False)

    @cached_property
    def prompts(self) -> tuple[Prompt, Prompt, Prompt]:
        """(first, second, negative), each conditioning with its role."""
        return prompt(self.first, "positive"), prompt(self.second, "middle"), prompt(self.negative, "negative")

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        return self.mods.rounded(self._nested if self.nested else self._regular)(x, sigma, ctx)

    def _nested(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        P, M, N = self.prompts
        at = self.mods.asked(Asked(x, sigma, number(self.cfg), ctx, self.model, P, M, layouts=self.layouts))
        p, m, n = at.evaluate(P, M, N)
        inner = self.mods(Preds(p, m, p), at)
        return Pred(lincomb(1 - self.cfg_negative, n, self.cfg_negative, inner.x0), inner.cond, inner.uncond)

    def _regular(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        P, M, N = self.prompts
        at = self.mods.asked(Asked(x, sigma, number(self.cfg_negative), ctx, self.model, M, N, layouts=self.layouts))
        if needs_negative(at.cfg, ctx.need_uncond or self.mods.need_uncond):
            p, m, n = at.evaluate(P, M, N)
            inner = self.mods(Preds(m, n, m), at)
        elif all_one(number(self.cfg)):
            (p,) = at.evaluate(P)
            return self.mods(Preds(p, None, p), at)
        else:
            p, m = at.evaluate(P, M)
            inner = self.mods(Preds(m, None, m), at)
        return Pred(lincomb(1.0, inner.x0, self.cfg, p, -self.cfg, m), p, inner.uncond)


@dataclass(frozen=True)
class PerpNegGuider:
    """Perp-Neg: the negative prompt acts only across the positive one. arXiv:2304.04968.

        D = E + cfg (p − neg_scale q⊥),   p = P − E,   q = N − E,   q⊥ = q − (q·p/‖p‖²) p

    P, N and E are the predictions of the positive, the negative and the empty prompt.

    Args:
        model: The network.
        positive: The prompt of P.
        negative: The prompt of N.
        empty: The prompt of E.
        cfg: The scale.
        neg_scale: Factor of the negative prompt.
        over: Whether products run over the whole "batch", as in ComfyUI, where a sample depends on the others, or
            over each "sample".
        mods: Mods that act before or after the rule.

    Raises:
        ValueError: A mod replaces the rule.
    """

    model: Model
    positive: Cond | Prompt
    negative: Cond | Prompt
    empty: Cond | Prompt
    cfg: float = 8.0
    neg_scale: float = 1.0
    over: Over = "batch"
    mods: Mods = Mods()
    layouts: Layouts = field(default_factory=Layouts, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mods.combine is not classifier_free:
            raise ValueError("PerpNegGuider combines by its own rule: give it mods that act before or after that only")

    @cached_property
    def prompts(self) -> tuple[Prompt, Prompt, Prompt]:
        """(positive, empty, negative), each conditioning with its role."""
        return prompt(self.positive, "positive"), prompt(self.empty, "empty"), prompt(self.negative, "negative")

    def __call__(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        return self.mods.rounded(self._guided)(x, sigma, ctx)

    def _guided(self, x: Latent, sigma: Sigma, ctx: Ctx) -> Pred:
        P, E, N = self.prompts
        at = self.mods.asked(Asked(x, sigma, number(self.cfg), ctx, self.model, P, N, E, layouts=self.layouts))
        need_uncond = ctx.need_uncond or self.mods.need_uncond
        if self.neg_scale or need_uncond:
            c, e, u = at.evaluate(P, E, N)
            rule = partial(perpendicular, E=e, neg_scale=self.neg_scale, over=self.over)
            return replace(self.mods, combine=rule)(Preds(c, u, c), at)
        if not needs_negative(at.cfg, need_uncond):
            (c,) = at.evaluate(P)
            return self.mods(Preds(c, None, c), at)
        c, e = at.evaluate(P, E)
        return self.mods(Preds(c, e, c), at)._replace(uncond=e)
