"""Mods that act on predictions by their size: rescaling, norms, and scalings of the noise that is predicted.

C, U and D are clean latents; a residual x − D is the noise times σ, or in a flow the velocity times σ. Norms and
deviations are of each sample, so that a batch gives the same as its samples one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sigmafield.core.arrays import Latent
from sigmafield.core.linear import lincomb
from sigmafield.core.parameters import Range, Share
from sigmafield.core.statistics import TINY, inner, norm, std
from sigmafield.guidance.hooks import Asked, Preds, choose, classifier_free
from sigmafield.guidance.registry import mod

Factor = Annotated[float, Range(0, 100)]
Width = Annotated[float, Range(0.01, 100)]


@mod("rescale", "combine", "arXiv:2305.08891 Sec. 3.4")
def rescale(p: Preds, at: Asked, *, multiplier: Share = 0.7, space: Literal["v", "residual"] = "v") -> Preds:
    """RescaleCFG: guidance keeps the standard deviation of the positive prediction.

        r = x̃ − D₀,   D₀ = U + cfg (C − U)
        D = x̃ − (φ std(x̃ − C)/std(r) + 1 − φ) r,   φ = multiplier

    Args:
        p: The predictions.
        at: What was asked.
        multiplier: How much of the deviation is restored; 0 is plain guidance.
        space: v, x̃ = x/(σ² + 1), as in ComfyUI for every model; residual, x̃ = x, for networks that predict the noise or
            a flow.
    """
    D = classifier_free(p, at).D
    base = lincomb(1 / (at.sigma**2 + 1), at.x) if space == "v" else at.x
    r = base - D
    k = std(base - p.c) / std(r).clamp(min=TINY)
    return p._replace(D=D + multiplier * (1 - k) * r)


@mod("renorm", "combine", "arXiv:2412.07730; arXiv:2503.21758")
def renorm(p: Preds, at: Asked, *, cfg_trunc: Factor = 100.0, renorm_cfg: Factor = 1.0) -> Preds:
    """RenormCFG: guidance below a noise level, with a norm that is limited by the positive prediction's.

        D = D₀ min(1, ρ ‖C‖/‖D₀‖)  where σ < cfg_trunc,   C elsewhere;   D₀ = U + cfg (C − U),   ρ = renorm_cfg

    The negative prompt is evaluated at every level.

    Args:
        p: The predictions.
        at: What was asked.
        cfg_trunc: Noise level below which there is guidance.
        renorm_cfg: Limit of the norm, in terms of the positive prediction's; 0 for no limit.
    """
    D = classifier_free(p, at).D
    if renorm_cfg > 0:
        D = D * (renorm_cfg * norm(p.c) / norm(D).clamp(min=TINY)).clamp(max=1)
    return p._replace(D=choose(at.sigma < cfg_trunc, D, p.c))


@mod("cfg_norm", "after", "ComfyUI (HiDream-E1)")
def cfg_norm(p: Preds, at: Asked, *, strength: Factor = 1.0) -> Preds:
    """CFGNorm: at each position, the norm of D over the channels is limited to that of C.

        D ← strength · D min(1, ‖C‖/‖D‖)

    Args:
        p: The predictions.
        at: What was asked.
        strength: Factor of the result.
    """
    lengths = [torch.linalg.vector_norm(v, dim=1, keepdim=True) for v in (p.c, p.D)]
    return p._replace(D=strength * (lengths[0] / (lengths[1] + 1e-8)).clamp(0, 1) * p.D)


@mod("zero_star", "after", "arXiv:2503.18886")
def zero_star(
    p: Preds,
    at: Asked,
    *,
    space: Literal["x0", "residual"] = "x0",
    zero_init_steps: Annotated[int, Range(0, 10000)] = 0,
) -> Preds:
    """CFG-Zero*: the negative prediction is fitted to the positive one before it is subtracted.

        α = ⟨x − C, x − U⟩/‖x − U‖²,   D ← D + (cfg − 1)(1 − α)(U − x)

    Without U nothing is fitted.

    Args:
        p: The predictions.
        at: What was asked.
        space: residual, the paper's rule above; x0, the same without x, as in ComfyUI.
        zero_init_steps: First steps of the run in which the predicted velocity is 0, D = x (1 in the paper, for flows).
    """
    if at.ctx.span.i < zero_init_steps:
        return p._replace(D=at.x)
    if p.u is None:
        return p
    r = at.x - p.u
    alpha = inner(at.x - p.c, r) / (inner(r, r) + 1e-8)
    return p._replace(D=p.D + (1 - alpha) * lincomb(at.cfg - 1, p.u if space == "x0" else -r))


@mod("mahiro", "after", "ComfyUI (Mahiro)")
def mahiro(p: Preds, at: Asked, *, over: Literal["batch", "sample"] = "batch") -> Preds:
    """Mahiro: the more guidance points away from the negative prediction, the more the positive one is used alone.

        L = cfg C,   m = mean cos(g(cfg U), g((L + D)/2)),   g(t) = sign(t) √|t|,   cosine over the channels
        D ← ½ ((1 + m) D + (1 − m) L)

    Args:
        p: The predictions.
        at: What was asked.
        over: Whether the mean is over the whole batch, as in ComfyUI, where a sample depends on the others, or over
            each sample.
    """
    L = lincomb(at.cfg, p.c)
    cosine = F.cosine_similarity(_root(lincomb(at.cfg, p.against)), _root((L + p.D) / 2), dim=1)[:, None]
    m = cosine.mean() if over == "batch" else cosine.mean(tuple(range(1, cosine.ndim)), keepdim=True)
    return p._replace(D=(p.D + L) / 2 + m * (p.D - L) / 2)


def _root(t: Latent) -> Latent:
    return t.sign() * t.abs().sqrt()


@mod("raag", "combine", "arXiv:2508.03442")
def raag(p: Preds, at: Asked, *, alpha: Factor = 8.0) -> Preds:
    """Ratio aware adaptive guidance: weaker where the prompts disagree most, at the beginning.

        D = U + w (C − U),   w = 1 + (cfg − 1) e^(−α R),   R = ‖C − U‖/‖x − U‖,   α = alpha

    It is made for scales of 10 and more. diffusers calls it magnitude aware.

    Args:
        p: The predictions.
        at: What was asked.
        alpha: How fast the scale falls with the ratio R; 0 is plain guidance.
    """
    if p.u is None:
        return p
    d = p.c - p.u
    ratio = norm(d) / norm(at.x - p.u).clamp(min=TINY)
    return p._replace(D=p.c + (-alpha * ratio).exp() * lincomb(at.cfg - 1, d))


@mod("linear_frames", "combine", "arXiv:2311.15127")
def linear_frames(p: Preds, at: Asked, *, min_cfg: Factor = 1.0) -> Preds:
    """A scale for each frame, from min_cfg at the first to cfg at the last.

        w = min_cfg + τ (cfg − min_cfg),   τ from 0 at the first frame to 1 at the last

    Frames are the third axis of [B, C, T, H, W] and otherwise the samples of a batch, as in Stable Video Diffusion.
    Without U, D = C.

    Args:
        p: The predictions.
        at: What was asked.
        min_cfg: Scale of the first frame.
    """
    return _by_frame(p, at, min_cfg, lambda tau: tau)


@mod("triangle_frames", "combine", "arXiv:2403.12008")
def triangle_frames(p: Preds, at: Asked, *, min_cfg: Factor = 1.0) -> Preds:
    """A scale for each frame, from min_cfg at the first to cfg in the middle and back: see `linear_frames`.

        w = min_cfg + (1 − |2τ − 1|)(cfg − min_cfg)

    Args:
        p: The predictions.
        at: What was asked.
        min_cfg: Scale of the first and the last frame.
    """
    return _by_frame(p, at, min_cfg, lambda tau: 1 - (2 * tau - 1).abs())


def _by_frame(p: Preds, at: Asked, low: float, shape: Callable[[Tensor], Tensor]) -> Preds:
    if p.u is None:
        return p
    axis = 2 if at.x.ndim == 5 else 0
    sizes = [1] * at.x.ndim
    sizes[axis] = at.x.shape[axis]
    tau = torch.linspace(0, 1, at.x.shape[axis], dtype=torch.float64).reshape(sizes)
    w = low + shape(tau) * (at.cfg - low)
    return p._replace(D=lincomb(1 - w, p.u, w, p.c))


@mod("epsilon_scaling", "after", "arXiv:2308.15321")
def epsilon_scaling(p: Preds, at: Asked, *, scaling_factor: Annotated[float, Range(0.5, 1.5)] = 1.005) -> Preds:
    """Epsilon scaling: the predicted noise, or a flow's velocity, is divided by κ = scaling_factor.

        D ← x − (x − D)/κ

    Args:
        p: The predictions.
        at: What was asked.
        scaling_factor: κ; 1 changes nothing.
    """
    return p._replace(D=lincomb(1 - 1 / scaling_factor, at.x, 1 / scaling_factor, p.D))


@mod("tsr", "after", "arXiv:2510.01184")
def tsr(p: Preds, at: Asked, *, tsr_k: Width = 0.95, tsr_sigma: Width = 1.0) -> Preds:
    """Temporal score rescaling: samples of another temperature, 1/k, k = tsr_k.

        D ← (1 − r) x/α + r D,   r = (s ν + 1)/(s ν/k + 1),   s = (α/σ)²,   ν = tsr_sigma²

    Exact for data with the deviation tsr_sigma. Nothing changes at σ = 0 and at a flow's σ = 1.

    Args:
        p: The predictions.
        at: What was asked.
        tsr_k: Inverse temperature k; 1 changes nothing.
        tsr_sigma: Deviation of the data.
    """
    alpha = at.ctx.span.process.alpha(at.sigma)
    signal, noise = (alpha * tsr_sigma) ** 2, at.sigma**2
    r = (signal + noise) / (signal / tsr_k + noise)
    r = torch.where((at.sigma == 0) | (alpha == 0), 1.0, r)
    return p._replace(D=lincomb((1 - r) / torch.where(alpha == 0, 1.0, alpha), at.x, r, p.D))
