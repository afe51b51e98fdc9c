"""Nodes that combine the weights of two models."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from torch import Tensor

from sigmafield.comfyui.declare import node
from sigmafield.comfyui.model import NodeModel
from sigmafield.comfyui.sockets import Input
from sigmafield.comfyui.values import Clip, Model
from sigmafield.comfyui.widgets import Share
from sigmafield.core.annotations import Range
from sigmafield.models.merging import Combine, merged, merged_all

CATEGORY = "advanced/model_merging"
Multiplier = Annotated[float, Range(-10, 10), Input(step=0.01)]


def mean(ratio: float) -> Combine:
    """ratio · first + (1 − ratio) · second."""
    return lambda name, a, b: ratio * a + (1 - ratio) * b


def difference(multiplier: float) -> Combine:
    """multiplier · (first − second)."""
    return lambda name, a, b: multiplier * (a - b)


def total(name: str, a: Tensor, b: Tensor) -> Tensor:
    """first + second."""
    return a + b


@node("ModelMergeSimple", CATEGORY)
def model_merge_simple(model1: Model, model2: Model, ratio: Share = 1.0) -> Model:
    """A weighted mean of two models.

    Args:
        model1: The first model, whose settings are kept.
        model2: The second model.
        ratio: Weight of the first; the second has the rest.
    """
    return _models(model1, model2, mean(ratio))


@node("ModelMergeBlocks", CATEGORY)
def model_merge_blocks(
    model1: Model, model2: Model, input: Share = 1.0, middle: Share = 1.0, out: Share = 1.0
) -> Model:
    """A weighted mean of two UNets, with a weight for each part.

    Args:
        model1: The first model, whose settings are kept.
        model2: The second model.
        input: Weight of the first on the way down, and in the embeddings.
        middle: Weight of the first in the middle.
        out: Weight of the first on the way up.
    """
    parts = {"mid": middle, "up_": out, "conv_norm_out": out, "conv_out": out, "norm_out": out}

    def combine(name: str, a: Tensor, b: Tensor) -> Tensor:
        ratio = next((ratio for start, ratio in parts.items() if name.startswith(start)), input)
        return ratio * a + (1 - ratio) * b

    return _models(model1, model2, combine)


@node("ModelMergeAdd", CATEGORY)
def model_merge_add(model1: Model, model2: Model) -> Model:
    """The sum of two models' weights, such as a model and a difference.

    Args:
        model1: The first model, whose settings are kept.
        model2: The second model.
    """
    return _models(model1, model2, total)


@node("ModelMergeSubtract", CATEGORY)
def model_merge_subtract(model1: Model, model2: Model, multiplier: Multiplier = 1.0) -> Model:
    """The difference of two models' weights.

    Args:
        model1: The first model, whose settings are kept.
        model2: The second model.
        multiplier: Factor of the difference.
    """
    return _models(model1, model2, difference(multiplier))


def _models(first: NodeModel, second: NodeModel, combine: Combine) -> NodeModel:
    """The first model with combined weights."""
    module = merged(first.network.patchable(), second.network.patchable(), combine)
    return replace(first, network=replace(first.network, module=module))


@node("CLIPMergeSimple", CATEGORY)
def clip_merge_simple(clip1: Clip, clip2: Clip, ratio: Share = 1.0) -> Clip:
    """A weighted mean of two text encoders.

    Args:
        clip1: The first text encoder.
        clip2: The second text encoder.
        ratio: Weight of the first; the second has the rest.
    """
    return replace(clip1, modules=merged_all(clip1.modules, clip2.modules, mean(ratio)))


@node("CLIPMergeAdd", CATEGORY)
def clip_merge_add(clip1: Clip, clip2: Clip) -> Clip:
    """The sum of two text encoders' weights.

    Args:
        clip1: The first text encoder.
        clip2: The second text encoder.
    """
    return replace(clip1, modules=merged_all(clip1.modules, clip2.modules, total))


@node("CLIPMergeSubtract", CATEGORY)
def clip_merge_subtract(clip1: Clip, clip2: Clip, multiplier: Multiplier = 1.0) -> Clip:
    """The difference of two text encoders' weights.

    Args:
        clip1: The first text encoder.
        clip2: The second text encoder.
        multiplier: Factor of the difference.
    """
    return replace(clip1, modules=merged_all(clip1.modules, clip2.modules, difference(multiplier)))
