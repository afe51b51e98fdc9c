"""Nodes that say where, when and how strongly a conditioning acts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sigmafield.comfyui.conditioning import Entry, changed
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.values import Conditioning, Mask
from sigmafield.comfyui.widgets import Offset, Percent, Share, Side, Strength

Bounds = Literal["default", "mask bounds"]


@node("ConditioningCombine", "conditioning", title="Conditioning (Combine)")
def conditioning_combine(conditioning_1: Conditioning, conditioning_2: Conditioning) -> Conditioning:
    """Both conditionings at once.

    Args:
        conditioning_1: The first.
        conditioning_2: The second.
    """
    return [*conditioning_1, *conditioning_2]


@node("ConditioningAverage", "conditioning")
def conditioning_average(
    conditioning_to: Conditioning, conditioning_from: Conditioning, conditioning_to_strength: Share = 1.0
) -> Conditioning:
    """A weighted mean of two conditionings.

    Args:
        conditioning_to: The one whose settings are kept.
        conditioning_from: The other, of which the first entry is used.
        conditioning_to_strength: Weight of the first; the other has the rest.
    """
    return [_averaged(each, conditioning_from[0], conditioning_to_strength) for each in conditioning_to]


@node("ConditioningConcat", "conditioning", title="Conditioning (Concat)")
def conditioning_concat(conditioning_to: Conditioning, conditioning_from: Conditioning) -> Conditioning:
    """Tokens of one conditioning after those of another.

    Args:
        conditioning_to: The one that comes first, whose settings are kept.
        conditioning_from: The other, of which the first entry is used.
    """
    return [_joined(each, conditioning_from[0]) for each in conditioning_to]


@node("ConditioningSetArea", "conditioning", title="Conditioning (Set Area)")
def conditioning_set_area(
    conditioning: Conditioning,
    width: Side = 64,
    height: Side = 64,
    x: Offset = 0,
    y: Offset = 0,
    strength: Strength = 1.0,
) -> Conditioning:
    """Lets a conditioning act in a rectangle.

    Args:
        conditioning: The conditioning.
        width: Width in pixels.
        height: Height in pixels.
        x: Left edge in pixels.
        y: Upper edge in pixels.
        strength: Weight against other conditionings.
    """
    area = (height // 8, width // 8, y // 8, x // 8)
    return changed(conditioning, area=area, strength=strength, set_area_to_bounds=False)


@node("ConditioningSetAreaPercentage", "conditioning", title="Conditioning (Set Area with Percentage)")
def conditioning_set_area_percentage(
    conditioning: Conditioning,
    width: Share = 1.0,
    height: Share = 1.0,
    x: Share = 0.0,
    y: Share = 0.0,
    strength: Strength = 1.0,
) -> Conditioning:
    """Lets a conditioning act in a rectangle in shares of the image.

    Args:
        conditioning: The conditioning.
        width: Width.
        height: Height.
        x: Left edge.
        y: Upper edge.
        strength: Weight against other conditionings.
    """
    area = ("percentage", height, width, y, x)
    return changed(conditioning, area=area, strength=strength, set_area_to_bounds=False)


@node("ConditioningSetAreaPercentageVideo", "conditioning")
def conditioning_set_area_percentage_video(
    conditioning: Conditioning,
    width: Share = 1.0,
    height: Share = 1.0,
    temporal: Share = 1.0,
    x: Share = 0.0,
    y: Share = 0.0,
    z: Share = 0.0,
    strength: Strength = 1.0,
) -> Conditioning:
    """Lets a conditioning act in a part of a video, in shares of it.

    Args:
        conditioning: The conditioning.
        width: Width.
        height: Height.
        temporal: Length.
        x: Left edge.
        y: Upper edge.
        z: First frame.
        strength: Weight against other conditionings.
    """
    area = ("percentage", temporal, height, width, z, y, x)
    return changed(conditioning, area=area, strength=strength, set_area_to_bounds=False)


@node("ConditioningSetAreaStrength", "conditioning")
def conditioning_set_area_strength(conditioning: Conditioning, strength: Strength = 1.0) -> Conditioning:
    """Sets the weight of a conditioning against others.

    Args:
        conditioning: The conditioning.
        strength: The weight.
    """
    return changed(conditioning, strength=strength)


@node("ConditioningSetMask", "conditioning", title="Conditioning (Set Mask)")
def conditioning_set_mask(
    conditioning: Conditioning, mask: Mask, strength: Strength = 1.0, *, set_cond_area: Bounds
) -> Conditioning:
    """Lets a conditioning act where a mask is.

    Args:
        conditioning: The conditioning.
        mask: Where it acts.
        strength: Factor of the mask.
        set_cond_area: Whether it acts in the whole latent, or in the box around the mask.
    """
    return masked(conditioning, mask, strength, set_cond_area)


@node("ConditioningSetTimestepRange", "advanced/conditioning")
def conditioning_set_timestep_range(
    conditioning: Conditioning, start: Percent = 0.0, end: Percent = 1.0
) -> Conditioning:
    """Lets a conditioning act in a part of the run.

    Args:
        conditioning: The conditioning.
        start: Share of the way through sampling where it begins.
        end: Share of the way through sampling where it ends.
    """
    return changed(conditioning, start_percent=start, end_percent=end)


@node("ConditioningZeroOut", "advanced/conditioning")
def conditioning_zero_out(conditioning: Conditioning) -> Conditioning:
    """A conditioning of zeros.

    Args:
        conditioning: The conditioning.
    """
    return [
        (torch.zeros_like(embeds), {**extra, **{key: torch.zeros_like(extra[key]) for key in ZEROED if key in extra}})
        for embeds, extra in conditioning
    ]


ZEROED = ("pooled_output", "conditioning_lyrics")
"""What ConditioningZeroOut sets to 0 as well as the embeddings."""


def _joined(to: Entry, other: Entry) -> Entry:
    """The tokens of both; where one has a mask of its tokens, so has the result."""
    (embeds, extra), (theirs, further) = to, other
    made, name = dict(extra), "attention_mask"
    if name in extra or name in further:
        masks = [more.get(name, each.new_ones(each.shape[:2]).long()) for each, more in (to, (theirs, further))]
        made[name] = torch.cat(masks, dim=1)
    return torch.cat([embeds, theirs], dim=1), made


def _averaged(to: Entry, other: Entry, weight: float) -> Entry:
    (embeds, extra), (theirs, further) = to, other
    made = dict(extra)
    if "pooled_output" in further:
        own = extra.get("pooled_output", further["pooled_output"])
        made["pooled_output"] = weight * own + (1 - weight) * further["pooled_output"]
    return weight * embeds + (1 - weight) * _with_tokens(theirs, embeds.shape[1]), made


def _with_tokens(embeds: Tensor, n: int) -> Tensor:
    """Embeddings of n tokens: cut, or padded with zeros."""
    short = embeds[:, :n]
    return torch.cat([short, short.new_zeros(len(short), n - short.shape[1], short.shape[2])], dim=1)


def masked(conditioning: Sequence[Entry], mask: Tensor, strength: float, area: str) -> list[Entry]:
    """The pairs with a mask."""
    mask = mask[None] if mask.ndim == 2 else mask
    return changed(conditioning, mask=mask, mask_strength=strength, set_area_to_bounds=area != "default")
