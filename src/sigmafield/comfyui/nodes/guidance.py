"""Nodes that change a model's guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sockets import Input, Socket
from sigmafield.comfyui.values import Conditioning, Model
from sigmafield.comfyui.widgets import Cfg, Percent, Scale, Share, Strength
from sigmafield.core.annotations import Range
from sigmafield.core.time_windows import within
from sigmafield.guidance.hooks import Asked, Preds
from sigmafield.guidance.hooks import Scale as GuidanceScale
from sigmafield.guidance.registry import Mod


@node("RescaleCFG", "advanced/model")
def rescale_cfg(model: Model, multiplier: Share = 0.7) -> Model:
    """Rescales guidance to the deviation of the positive prediction.

    Args:
        model: The model.
        multiplier: Share of the rescaled result.
    """
    return model.guided("rescale", multiplier=multiplier)


@node("RenormCFG", "advanced/model")
def renorm_cfg(model: Model, cfg_trunc: Scale = 100.0, renorm_cfg: Scale = 1.0) -> Model:
    """Limits the norm of the guided prediction to that of the positive one.

    Args:
        model: The model.
        cfg_trunc: Noise level below which it acts.
        renorm_cfg: The limit, in multiples of the positive prediction's norm; 0: none.
    """
    return model.guided("renorm", cfg_trunc=cfg_trunc, renorm_cfg=renorm_cfg)


@node("CFGZeroStar", "advanced/guidance", outputs=("patched_model",))
def cfg_zero_star(model: Model) -> Model:
    """Scales the negative prediction to fit the positive one before guidance.

    Args:
        model: The model.
    """
    return model.guided("zero_star")


@node("CFGNorm", "advanced/guidance", outputs=("patched_model",), experimental=True)
def cfg_norm(model: Model, strength: Scale = 1.0) -> Model:
    """Scales the guided prediction to the norm of the positive one, where it is larger.

    Args:
        model: The model.
        strength: Factor of the result.
    """
    return model.guided("cfg_norm", strength=strength)


@node("TCFG", "advanced/guidance", title="Tangential Damping CFG", outputs=("patched_model",))
def tcfg(model: Model) -> Model:
    """Removes from the negative prediction what is not along the positive one.

    Args:
        model: The model.
    """
    return model.guided("tcfg")


@node("APG", "sampling/custom_sampling", title="Adaptive Projected Guidance")
def apg(
    model: Model,
    eta: Annotated[float, Range(-10.0, 10.0), Input(step=0.01)] = 1.0,
    norm_threshold: Annotated[float, Range(0.0, 50.0), Input(step=0.1)] = 5.0,
    momentum: Annotated[float, Range(-5.0, 1.0), Input(step=0.01)] = 0.0,
) -> Model:
    """Adaptive projected guidance.

    Args:
        model: The model.
        eta: Scale of the part along the positive prediction.
        norm_threshold: Largest norm of the difference of the predictions; 0: no limit.
        momentum: Weight of the earlier steps' differences.
    """
    return model.guided("apg", eta=eta, norm_threshold=norm_threshold, momentum=momentum)


@node("Mahiro", "_for_testing", title="Mahiro CFG", outputs=("patched_model",), experimental=True)
def mahiro(model: Model) -> Model:
    """Scales guidance by the similarity of the two predictions.

    Args:
        model: The model.
    """
    return model.guided("mahiro")


@node("PerpNeg", "_for_testing", title="Perp-Neg (DEPRECATED by PerpNegGuider)", deprecated=True, experimental=True)
def perp_neg(model: Model, empty_conditioning: Conditioning, neg_scale: Scale = 1.0) -> Model:
    """Lets the negative prompt act only across the positive one.

    Args:
        model: The model.
        empty_conditioning: An empty prompt.
        neg_scale: Strength of the negative prompt.
    """
    return replace(model, empty=empty_conditioning).guided("perp_neg", neg_scale=neg_scale)


@node("FreSca", "_for_testing", experimental=True)
def fresca(
    model: Model,
    scale_low: Strength = 1.0,
    scale_high: Strength = 1.25,
    freq_cutoff: Annotated[int, Range(1, 10000), Input(step=1)] = 20,
) -> Model:
    """Scales low and high frequencies of the guidance.

    Args:
        model: The model.
        scale_low: Scale of low frequencies.
        scale_high: Scale of high frequencies.
        freq_cutoff: Number of frequencies that are low.
    """
    return model.guided("fresca", scale_low=scale_low, scale_high=scale_high, freq_cutoff=freq_cutoff)


@node("Epsilon Scaling", "model_patches/unet")
def epsilon_scaling(
    model: Model, scaling_factor: Annotated[float, Range(0.5, 1.5), Input(step=0.001, display="number")] = 1.005
) -> Model:
    """Scales the predicted noise.

    Args:
        model: The model.
        scaling_factor: Divisor of the noise; above 1 there is less of it.
    """
    return model.guided("epsilon_scaling", scaling_factor=scaling_factor)


@node(
    "TemporalScoreRescaling", "model_patches/unet", title="TSR - Temporal Score Rescaling", outputs=("patched_model",)
)
def temporal_score_rescaling(
    model: Model,
    tsr_k: Annotated[float, Range(0.01, 100.0), Input(step=0.001, display="number")] = 0.95,
    tsr_sigma: Annotated[float, Range(0.01, 100.0), Input(step=0.001, display="number")] = 1.0,
) -> Model:
    """Sharpens or softens the distribution that is sampled.

    Args:
        model: The model.
        tsr_k: Below 1 the result is sharper.
        tsr_sigma: Deviation of the data at which it acts.
    """
    return model.guided("tsr", tsr_k=tsr_k, tsr_sigma=tsr_sigma)


@node("VideoLinearCFGGuidance", "sampling/video_models")
def video_linear_cfg_guidance(
    model: Model, min_cfg: Annotated[float, Range(0.0, 100.0), Input(step=0.5, round=0.01)] = 1.0
) -> Model:
    """A scale that rises from frame to frame.

    Args:
        model: The model.
        min_cfg: Scale of the first frame.
    """
    return model.guided("linear_frames", min_cfg=min_cfg)


@node("VideoTriangleCFGGuidance", "sampling/video_models")
def video_triangle_cfg_guidance(
    model: Model, min_cfg: Annotated[float, Range(0.0, 100.0), Input(step=0.5, round=0.01)] = 1.0
) -> Model:
    """A scale that rises to the middle frame and falls.

    Args:
        model: The model.
        min_cfg: Scale of the first and the last frame.
    """
    return model.guided("triangle_frames", min_cfg=min_cfg)


@node("LatentApplyOperationCFG", "latent/advanced/operations", experimental=True)
def latent_apply_operation_cfg(
    model: Model, operation: Annotated[Callable[[Tensor], Tensor], Socket("LATENT_OPERATION")]
) -> Model:
    """Applies an operation to the difference of the predictions before guidance.

        C ← op(C − U) + U,   or op(C) without a negative prompt

    Args:
        model: The model.
        operation: The operation.
    """

    def before(p: Preds, at: Asked) -> Preds:
        return p._replace(c=operation(p.c) if p.u is None else operation(p.c - p.u) + p.u)

    return model.with_row(Mod(f"operation_{len(model.rows)}", before, "before", "ComfyUI"))


@node("CFGOverride", "advanced/guidance", version=3)
def cfg_override(model: Model, cfg: Cfg = 1.0, start_percent: Percent = 0.0, end_percent: Percent = 1.0) -> Model:
    """Replaces the guidance scale in a part of the run; at 1 the negative prompt is not evaluated there.

    Args:
        model: The model.
        cfg: The scale.
        start_percent: Share of the way through sampling where it begins to act.
        end_percent: Share of the way through sampling where it stops acting.
    """

    def override(at: Asked) -> GuidanceScale:
        return torch.where(within((start_percent, end_percent), at.sigma, at.ctx.span.sigma_at), cfg, at.cfg)

    name = f"cfg_override_{len(model.rows)}"
    return model.with_row(Mod(name, override, "scale", "ComfyUI"))
