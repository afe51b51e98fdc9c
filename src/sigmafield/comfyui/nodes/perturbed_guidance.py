"""Nodes that guide away from a prediction that is made worse on purpose."""

from __future__ import annotations

from typing import Annotated

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Model
from sigmafield.comfyui.widgets import Percent, Strength, Strong
from sigmafield.core.annotations import Range


@node("SelfAttentionGuidance", "_for_testing", title="Self-Attention Guidance", experimental=True)
def self_attention_guidance(
    model: Model, scale: Annotated[float, Range(-2.0, 5.0), Input(step=0.01)] = 0.5, blur_sigma: Strong = 2.0
) -> Model:
    """Guides away from a prediction of the image blurred where attention is.

    Args:
        model: The model.
        scale: Strength of the guidance.
        blur_sigma: Width of the blur in latent positions.
    """
    return model.guided("sag", scale=scale, blur_sigma=blur_sigma)


@node("PerturbedAttentionGuidance", "model_patches/unet")
def perturbed_attention_guidance(
    model: Model, scale: Annotated[float, Range(0.0, 100.0), Input(step=0.01, round=0.01)] = 3.0
) -> Model:
    """Guides away from a prediction whose self-attention sees nothing but itself.

    Args:
        model: The model.
        scale: Strength of the guidance.
    """
    return model.guided("pag", scale=scale)


@node("SkipLayerGuidanceSD3", "advanced/guidance", version=3, experimental=True)
def skip_layer_guidance_sd3(
    model: Model,
    layers: str = "7, 8, 9",
    scale: Strong = 3.0,
    start_percent: Percent = 0.01,
    end_percent: Percent = 0.15,
) -> Model:
    """Guides away from a prediction without some blocks.

    Args:
        model: The model.
        layers: Numbers of the blocks that are skipped.
        scale: Strength of the guidance.
        start_percent: Share of the way through sampling where it begins to act.
        end_percent: Share of the way through sampling where it stops acting.
    """
    return model.guided(
        "slg", double=layers, single="", scale=scale, start_percent=start_percent, end_percent=end_percent
    )


@node("SkipLayerGuidanceDiT", "advanced/guidance", version=3, experimental=True)
def skip_layer_guidance_dit(
    model: Model,
    double_layers: str = "7, 8, 9",
    single_layers: str = "7, 8, 9",
    scale: Strong = 3.0,
    start_percent: Percent = 0.01,
    end_percent: Percent = 0.15,
    rescaling_scale: Strength = 0.0,
) -> Model:
    """Guides away from a prediction without some blocks.

    Args:
        model: The model.
        double_layers: Numbers of the double blocks that are skipped.
        single_layers: Numbers of the single blocks that are skipped.
        scale: Strength of the guidance.
        start_percent: Share of the way through sampling where it begins to act.
        end_percent: Share of the way through sampling where it stops acting.
        rescaling_scale: How far the result gets the deviation of the positive prediction.
    """
    return model.guided(
        "slg",
        double=double_layers,
        single=single_layers,
        scale=scale,
        start_percent=start_percent,
        end_percent=end_percent,
        rescaling_scale=rescaling_scale,
    )


@node("SkipLayerGuidanceDiTSimple", "advanced/guidance", version=3, experimental=True)
def skip_layer_guidance_dit_simple(
    model: Model,
    double_layers: str = "7, 8, 9",
    single_layers: str = "7, 8, 9",
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
) -> Model:
    """Leaves some blocks out of the negative prediction.

    Args:
        model: The model.
        double_layers: Numbers of the double blocks that are skipped.
        single_layers: Numbers of the single blocks that are skipped.
        start_percent: Share of the way through sampling where it begins to act.
        end_percent: Share of the way through sampling where it stops acting.
    """
    return model.guided(
        "slg_simple", double=double_layers, single=single_layers, start_percent=start_percent, end_percent=end_percent
    )
