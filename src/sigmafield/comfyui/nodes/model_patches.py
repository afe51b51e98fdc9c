"""Nodes that change what a network does within its calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.model import NodeModel
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Model
from sigmafield.comfyui.widgets import Percent, Share, Strength
from sigmafield.core.annotations import Range


@node("FreeU", "model_patches/unet")
def freeu(model: Model, b1: Strength = 1.1, b2: Strength = 1.2, s1: Strength = 0.9, s2: Strength = 0.2) -> Model:
    """Strengthens the features and weakens the skip connections of a UNet.

    Args:
        model: The model.
        b1: Factor of the deepest features.
        b2: Factor of the next features.
        s1: Factor of low frequencies in the deepest skip connections.
        s2: Factor of low frequencies in the next skip connections.
    """
    return model.guided("freeu", b1=b1, b2=b2, s1=s1, s2=s2)


@node("FreeU_V2", "model_patches/unet")
def freeu_v2(model: Model, b1: Strength = 1.3, b2: Strength = 1.4, s1: Strength = 0.9, s2: Strength = 0.2) -> Model:
    """FreeU with factors that follow the features.

    Args:
        model: The model.
        b1: Factor of the deepest features.
        b2: Factor of the next features.
        s1: Factor of low frequencies in the deepest skip connections.
        s2: Factor of low frequencies in the next skip connections.
    """
    return model.guided("freeu_v2", b1=b1, b2=b2, s1=s1, s2=s2)


@node("HyperTile", "model_patches/unet")
def hypertile(
    model: Model,
    tile_size: Annotated[int, Range(1, 2048)] = 256,
    swap_size: Annotated[int, Range(1, 128)] = 2,
    max_depth: Annotated[int, Range(0, 10)] = 0,
    scale_depth: bool = False,
) -> Model:
    """Self-attention within tiles, which is faster for large images.

    Args:
        model: The model.
        tile_size: Side of a tile in pixels.
        swap_size: Number of tile sizes that are drawn from.
        max_depth: Deepest level of the UNet that is tiled.
        scale_depth: Whether tiles grow with the depth.
    """
    return model.guided(
        "hypertile", tile_size=tile_size, swap_size=swap_size, max_depth=max_depth, scale_depth=scale_depth
    )


@node("TomePatchModel", "model_patches/unet")
def tome_patch_model(model: Model, ratio: Share = 0.3) -> Model:
    """Merges tokens that are alike, which is faster.

    Args:
        model: The model.
        ratio: Share of the tokens that are merged.
    """
    return model.guided("tome", ratio=ratio)


@node("PatchModelAddDownscale", "model_patches/unet", title="PatchModelAddDownscale (Kohya Deep Shrink)", version=3)
def patch_model_add_downscale(
    model: Model,
    block_number: Annotated[int, Range(1, 32), Input(step=1)] = 3,
    downscale_factor: Annotated[float, Range(0.1, 9.0), Input(step=0.001)] = 2.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 0.35,
    downscale_after_skip: bool = True,
    *,
    downscale_method: Literal["bicubic", "nearest-exact", "bilinear", "area", "bislerp"],
    upscale_method: Literal["bicubic", "nearest-exact", "bilinear", "area", "bislerp"],
) -> Model:
    """Shrinks the features of a UNet in the first steps, against repeated motifs in large images.

    Args:
        model: The model.
        block_number: The block after which features are shrunk.
        downscale_factor: How far they are shrunk.
        start_percent: Share of the way through sampling where it begins to act.
        end_percent: Share of the way through sampling where it stops acting.
        downscale_after_skip: Whether the skip connection keeps its size.
        downscale_method: Interpolation of shrinking.
        upscale_method: Interpolation back.
    """
    return model.guided(
        "deep_shrink",
        block=block_number,
        downscale_factor=downscale_factor,
        start_percent=start_percent,
        end_percent=end_percent,
        after_skip=downscale_after_skip,
        downscale_method=downscale_method,
        upscale_method=upscale_method,
    )


@node("DifferentialDiffusion", "_for_testing", title="Differential Diffusion", experimental=True)
def differential_diffusion(
    model: Model, strength: Annotated[float, Range(0, 1), Input(optional=True, step=0.01)] = 1.0
) -> Model:
    """Lets a soft mask say from which step each position changes.

    Args:
        model: The model.
        strength: Share of the mask that is made hard; 0 acts as 1.
    """
    return replace(model, differential=strength)


@node("UNetSelfAttentionMultiply", "_for_testing/attention_experiments", experimental=True)
def unet_self_attention_multiply(
    model: Model, q: Strength = 1.0, k: Strength = 1.0, v: Strength = 1.0, out: Strength = 1.0
) -> Model:
    """Multiplies the weights of self-attention.

    Args:
        model: The model.
        q: Factor of the queries.
        k: Factor of the keys.
        v: Factor of the values.
        out: Factor of the output.
    """
    return model.guided("self_attention_multiply", q=q, k=k, v=v, out=out)


@node("UNetCrossAttentionMultiply", "_for_testing/attention_experiments", experimental=True)
def unet_cross_attention_multiply(
    model: Model, q: Strength = 1.0, k: Strength = 1.0, v: Strength = 1.0, out: Strength = 1.0
) -> Model:
    """Multiplies the weights of cross-attention.

    Args:
        model: The model.
        q: Factor of the queries.
        k: Factor of the keys.
        v: Factor of the values.
        out: Factor of the output.
    """
    return model.guided("cross_attention_multiply", q=q, k=k, v=v, out=out)


@node("EasyCache", "advanced/debug/model", experimental=True)
def easy_cache(
    model: Model,
    reuse_threshold: Annotated[float, Range(0.0, 3.0), Input(step=0.01)] = 0.2,
    start_percent: Share = 0.15,
    end_percent: Share = 0.95,
    verbose: bool = False,
) -> Model:
    """Reuses the network's answers in steps that would change little.

    Args:
        model: The model.
        reuse_threshold: Largest estimated change for which a step is reused.
        start_percent: Share of the way through sampling where it begins to act.
        end_percent: Share of the way through sampling where it stops acting.
        verbose: Whether ComfyUI's console says what is reused; here it is ignored.
    """
    return model.guided(
        "easycache", reuse_threshold=reuse_threshold, start_percent=start_percent, end_percent=end_percent
    )


@node("LazyCache", "advanced/debug/model", experimental=True)
def lazy_cache(
    model: Model,
    reuse_threshold: Annotated[float, Range(0.0, 3.0), Input(step=0.01)] = 0.2,
    start_percent: Share = 0.15,
    end_percent: Share = 0.95,
    verbose: bool = False,
) -> Model:
    """Reuses guided predictions in steps that would change little.

    Args:
        model: The model.
        reuse_threshold: Largest estimated change for which a step is reused.
        start_percent: Share of the way through sampling where it begins to act.
        end_percent: Share of the way through sampling where it stops acting.
        verbose: Whether ComfyUI's console says what is reused; here it is ignored.
    """
    return model.guided(
        "lazycache", reuse_threshold=reuse_threshold, start_percent=start_percent, end_percent=end_percent
    )


@node("ContextWindowsManual", "context", title="Context Windows (Manual)", version=3, experimental=True)
def context_windows_manual(
    model: Model,
    context_length: Annotated[int, Range(1)] = 16,
    context_overlap: Annotated[int, Range(0)] = 4,
    *,
    context_schedule: Literal["standard_static", "standard_uniform", "looped_uniform", "batched"],
    context_stride: Annotated[int, Range(1)] = 1,
    closed_loop: bool = False,
    fuse_method: Literal["pyramid", "relative", "flat", "overlap-linear"] = "pyramid",
    dim: Annotated[int, Range(0, 5)] = 0,
    freenoise: bool = False,
) -> Model:
    """Shows the network a part of a long axis at a time.

    Args:
        model: The model.
        context_length: Positions that the network is shown at a time.
        context_overlap: Positions that neighbouring windows share.
        context_schedule: Which windows there are.
        context_stride: How many kinds of windows the uniform schedules have.
        closed_loop: Whether the ends of the axis are joined as well.
        fuse_method: Weights within a window.
        dim: The axis: 0 = the batch, 2 = frames.
        freenoise: Whether noise is repeated in shuffled windows; must be off.
    """
    return _windows(
        model,
        context_length,
        context_overlap,
        context_schedule,
        context_stride,
        closed_loop,
        fuse_method,
        dim,
        freenoise,
    )


@node("WanContextWindowsManual", "context", title="WAN Context Windows (Manual)", version=3, experimental=True)
def wan_context_windows_manual(
    model: Model,
    context_length: Annotated[int, Range(1, 16384), Input(step=4)] = 81,
    context_overlap: Annotated[int, Range(0)] = 30,
    *,
    context_schedule: Literal["standard_static", "standard_uniform", "looped_uniform", "batched"],
    context_stride: Annotated[int, Range(1)] = 1,
    closed_loop: bool = False,
    fuse_method: Literal["pyramid", "relative", "flat", "overlap-linear"] = "pyramid",
    freenoise: bool = False,
) -> Model:
    """Shows the network a part of a long video at a time; lengths are in frames.

    Args:
        model: The model.
        context_length: Positions that the network is shown at a time.
        context_overlap: Positions that neighbouring windows share.
        context_schedule: Which windows there are.
        context_stride: How many kinds of windows the uniform schedules have.
        closed_loop: Whether the ends of the axis are joined as well.
        fuse_method: Weights within a window.
        freenoise: Whether noise is repeated in shuffled windows; must be off.
    """
    length, overlap = max((context_length - 1) // 4 + 1, 1), max((context_overlap - 1) // 4 + 1, 0)
    return _windows(model, length, overlap, context_schedule, context_stride, closed_loop, fuse_method, 2, freenoise)


def _windows(
    model: NodeModel,
    length: int,
    overlap: int,
    schedule: str,
    stride: int,
    closed_loop: bool,
    fuse: str,
    dim: int,
    freenoise: bool,
) -> NodeModel:
    if freenoise:
        raise ValueError("freenoise must be off: noise is not repeated in shuffled windows here")
    return model.guided(
        "context", length=length, overlap=overlap, schedule=schedule, stride=stride, closed_loop=closed_loop,
        fuse=fuse.replace("-", "_"), dim=dim,
    )  # fmt: skip


@node("ModelAttentionBackend", "advanced/debug/model", outputs=("model",), version=3)
def model_attention_backend(model: Model, attention: Literal["pytorch attention", "comfy kitchen attention"]) -> Model:
    """Chooses how attention is computed: here it is always torch's, whatever is chosen.

    Args:
        model: The model.
        attention: The way.
    """
    return model
