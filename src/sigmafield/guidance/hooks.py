"""Where guidance may be changed: the stages between the network and what a sampler is given, outermost first.

A mod is a plain function; its own parameters are keywords:

    around:   (denoise)       → denoise    changes when and where a guided prediction is made
    scale:    (at)            → cfg        the scale as a function of σ, before anything is evaluated
    model:    (model)         → model      changes how prompts are evaluated
    network:  (network, call) → network    changes the network within its calls
    against:  (network, call) → network    the same, for the negative prompt alone
    before:   (p, at)         → p          changes the predictions C and U
    combine:  (p, at)         → p          replaces D = U + cfg (C − U); there is one
    after:    (p, at)         → p          changes D

Memory between calls goes into `ctx.aux` through a `Slot`, so that a run resumes bit-exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from sigmafield.core.arrays import Latent, Sigma
from sigmafield.core.conditioning import Prompt
from sigmafield.core.linear import lincomb
from sigmafield.core.predict import Layouts, predict
from sigmafield.core.protocols import Ctx, Denoiser, Model, Patch, Pred

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
        """u, or zeros where it was not evaluated, which ComfyUI's mods find there."""
        return torch.zeros_like(self.c) if self.u is None else self.u


@dataclass(frozen=True)
class Asked:
    """One guided prediction, as mods know it.

    Args:
        x: Noisy latent.
        sigma: Its noise level.
        cfg: The scale.
        ctx: The step, with memory in `ctx.aux`.
        model: The network, for mods that need a further prediction.
        positive: The positive prompt.
        negative: The negative prompt.
        empty: The empty prompt.
        against: Patches for the negative prompt alone.
        layouts: Layouts of these prompts that are known from earlier steps.
    """

    x: Latent
    sigma: Sigma
    cfg: Scale
    ctx: Ctx
    model: Model
    positive: Prompt
    negative: Prompt | None = None
    empty: Prompt | None = None
    against: tuple[Patch, ...] = ()
    layouts: Layouts = field(default_factory=Layouts)

    def evaluate(self, *prompts: Prompt) -> list[Latent]:
        """The prompts' clean latents, all in one evaluation, except a negative prompt that has patches of its own."""
        if not self.against:
            return predict(self.model, self.x, self.sigma, prompts, self.ctx, self.layouts)
        apart = [prompt[0].role == "negative" for prompt in prompts]
        together = [prompt for prompt, own in zip(prompts, apart) if not own]
        answers = predict(self.model, self.x, self.sigma, together, self.ctx, self.layouts)
        inner = with_patches(self.ctx, *self.against)
        return [
            predict(self.model, self.x, self.sigma, [prompt], inner, self.layouts)[0] if own else answers.pop(0)
            for prompt, own in zip(prompts, apart)
        ]

    def predict(self, model: Model, prompt: Prompt, *patches: Patch) -> Latent:
        """A prompt's clean latent at this x and σ, with further patches of the network: one more evaluation.

        What patches note in it is dropped, so that notes are those of the evaluation that is guided.
        """
        ctx = replace(with_patches(self.ctx, *patches), notes={})
        return predict(model, self.x, self.sigma, [prompt], ctx, self.layouts)[0]


def with_patches(ctx: Ctx, *patches: Patch) -> Ctx:
    """The step with further patches, which act before those that it has; it shares memory and notes with it."""
    return replace(ctx, patches=(*patches, *ctx.patches)) if patches else ctx


Around = Callable[[Denoiser], Denoiser]
"""Another guided prediction."""

ScaleHook = Callable[[Asked], Scale]
"""Another scale; `Asked.cfg` is the one so far."""

ModelHook = Callable[[Model], Model]
"""Another model."""

Hook = Callable[[Preds, Asked], Preds]
"""Other predictions."""


def is_one(scale: Scale) -> Tensor:
    """Where a scale is 1, so that the negative prediction drops out; on the CPU."""
    return (scale - 1).abs() <= 1e-9


def all_one(scale: Scale) -> bool:
    """Whether a scale is 1 everywhere."""
    return bool(is_one(scale).all()) if scale.ndim else math.isclose(scale.item(), 1.0)


def needs_negative(cfg: Scale, need_uncond: bool) -> bool:
    """Whether the negative prompt has to be evaluated: its scale is not 1, or a sampler or a mod needs it."""
    return need_uncond or not all_one(cfg)


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
    """What is done to predictions, stage by stage; of several hooks of a stage, the last is outermost, or acts last.

    Patches of the network act in their order at every point that several of them change: the first one sees what the
    network itself has there.

    Where a scale hook takes cfg to 1 there is no guidance: D = C, and `before` and `combine` do not act.

    Args:
        scale: Change the scale.
        before: Change C and U.
        combine: Makes D of them.
        after: Change D.
        around: Change the whole guided prediction.
        model: Change how prompts are evaluated.
        network: Change the network within its calls.
        against: Change the network for the negative prompt alone.
        need_uncond: The negative prompt is evaluated at every scale.
        fits: Raise ValueError for a network's torch module in which the mods have nothing to act on.
        one_sigma: Names of mods for which σ must not vary within a sample.
        evals: Evaluations of the prompt that the mods add.
    """

    scale: tuple[ScaleHook, ...] = ()
    before: tuple[Hook, ...] = ()
    combine: Hook = classifier_free
    after: tuple[Hook, ...] = ()
    around: tuple[Around, ...] = ()
    model: tuple[ModelHook, ...] = ()
    network: tuple[Patch, ...] = ()
    against: tuple[Patch, ...] = ()
    need_uncond: bool = False
    fits: tuple[Callable[[nn.Module], None], ...] = ()
    one_sigma: tuple[str, ...] = ()
    evals: int = 0

    def check(self, module: nn.Module) -> None:
        """Raises ValueError for a network in which a mod has nothing to act on."""
        for fits in self.fits:
            fits(module)

    def rounded(self, denoise: Denoiser) -> Denoiser:
        """A guided prediction with the `around` hooks."""
        for hook in self.around:
            denoise = hook(denoise)
        return denoise

    def asked(self, at: Asked) -> Asked:
        """The same question with the mods' model, patches and scale, and without notes or a plan."""
        model = at.model
        for wrap in self.model:
            model = wrap(model)
        ctx = replace(with_patches(at.ctx, *self.network), notes={}, plan={})
        at = replace(at, model=model, ctx=ctx, against=self.against)
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
