"""Nodes that say where, when and how strongly a conditioning acts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from sigmafield.comfyui.conditioning import Entry, changed
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sockets import Socket
from sigmafield.comfyui.values import Conditioning, Mask
from sigmafield.comfyui.widgets import Offset, Percent, Share, Side, Strength

Timesteps = Annotated[tuple[float, float], Socket("TIMESTEPS_RANGE")]
"""Shares of the way through sampling, 0 = start."""
Hooks = Annotated[Any, Socket("HOOKS")]
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
    return [(torch.cat([embeds, conditioning_from[0][0]], dim=1), dict(extra)) for embeds, extra in conditioning_to]


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
    return _masked(conditioning, mask, strength, set_cond_area)


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


@node(
    "ConditioningTimestepsRange",
    "advanced/hooks",
    title="Timesteps Range",
    outputs=(
        "TIMESTEPS_RANGE",
        "BEFORE_RANGE",
        "AFTER_RANGE",
    ),
    experimental=True,
)
def conditioning_timesteps_range(
    start_percent: Percent = 0.0, end_percent: Percent = 1.0
) -> tuple[Timesteps, Timesteps, Timesteps]:
    """A part of the run, and the parts before and after it.

    Args:
        start_percent: Where it begins: 0 = start.
        end_percent: Where it ends.
    """
    return (start_percent, end_percent), (0.0, start_percent), (end_percent, 1.0)


@node("ConditioningSetProperties", "advanced/hooks/cond single", title="Cond Set Props", experimental=True)
def conditioning_set_properties(
    cond_NEW: Conditioning,
    strength: Strength = 1.0,
    *,
    set_cond_area: Bounds,
    mask: Mask | None = None,
    hooks: Hooks | None = None,
    timesteps: Timesteps | None = None,
) -> Conditioning:
    """Sets where and when a conditioning acts.

    Args:
        cond_NEW: The conditioning.
        strength: Factor of the mask.
        set_cond_area: Whether it acts in the whole latent, or in the box around the mask.
        mask: Where it acts.
        hooks: Changes of weights, which must not be given here.
        timesteps: The part of the run in which it acts.
    """
    return _set(cond_NEW, strength, set_cond_area, mask, hooks, timesteps)


@node(
    "ConditioningSetPropertiesAndCombine",
    "advanced/hooks/cond single",
    title="Cond Set Props Combine",
    experimental=True,
)
def conditioning_set_properties_and_combine(
    cond: Conditioning,
    cond_NEW: Conditioning,
    strength: Strength = 1.0,
    *,
    set_cond_area: Bounds,
    mask: Mask | None = None,
    hooks: Hooks | None = None,
    timesteps: Timesteps | None = None,
) -> Conditioning:
    """Sets where and when a conditioning acts, and adds it to another.

    Args:
        cond: The other.
        cond_NEW: The conditioning.
        strength: Factor of the mask.
        set_cond_area: Whether it acts in the whole latent, or in the box around the mask.
        mask: Where it acts.
        hooks: Changes of weights, which must not be given here.
        timesteps: The part of the run in which it acts.
    """
    return [*cond, *_set(cond_NEW, strength, set_cond_area, mask, hooks, timesteps)]


@node(
    "ConditioningSetDefaultCombine", "advanced/hooks/cond single", title="Cond Set Default Combine", experimental=True
)
def conditioning_set_default_combine(
    cond: Conditioning, cond_DEFAULT: Conditioning, hooks: Hooks | None = None
) -> Conditioning:
    """Adds a conditioning that acts where no other does.

    Args:
        cond: The others.
        cond_DEFAULT: The conditioning.
        hooks: Changes of weights, which must not be given here.
    """
    _no_hooks(hooks)
    return [*cond, *changed(cond_DEFAULT, default=True)]


@node(
    "PairConditioningSetProperties",
    "advanced/hooks/cond pair",
    title="Cond Pair Set Props",
    outputs=(
        "positive",
        "negative",
    ),
    experimental=True,
)
def pair_conditioning_set_properties(
    positive_NEW: Conditioning,
    negative_NEW: Conditioning,
    strength: Strength = 1.0,
    *,
    set_cond_area: Bounds,
    mask: Mask | None = None,
    hooks: Hooks | None = None,
    timesteps: Timesteps | None = None,
) -> tuple[Conditioning, Conditioning]:
    """Sets where and when a pair of conditionings acts.

    Args:
        positive_NEW: What to draw.
        negative_NEW: What to avoid.
        strength: Factor of the mask.
        set_cond_area: Whether it acts in the whole latent, or in the box around the mask.
        mask: Where it acts.
        hooks: Changes of weights, which must not be given here.
        timesteps: The part of the run in which it acts.
    """
    both = [_set(each, strength, set_cond_area, mask, hooks, timesteps) for each in (positive_NEW, negative_NEW)]
    return both[0], both[1]


@node(
    "PairConditioningSetPropertiesAndCombine",
    "advanced/hooks/cond pair",
    title="Cond Pair Set Props Combine",
    outputs=(
        "positive",
        "negative",
    ),
    experimental=True,
)
def pair_conditioning_set_properties_and_combine(
    positive: Conditioning,
    negative: Conditioning,
    positive_NEW: Conditioning,
    negative_NEW: Conditioning,
    strength: Strength = 1.0,
    *,
    set_cond_area: Bounds,
    mask: Mask | None = None,
    hooks: Hooks | None = None,
    timesteps: Timesteps | None = None,
) -> tuple[Conditioning, Conditioning]:
    """Sets where and when a pair of conditionings acts, and adds it to another pair.

    Args:
        positive: What to draw, of the other pair.
        negative: What to avoid, of the other pair.
        positive_NEW: What to draw.
        negative_NEW: What to avoid.
        strength: Factor of the mask.
        set_cond_area: Whether it acts in the whole latent, or in the box around the mask.
        mask: Where it acts.
        hooks: Changes of weights, which must not be given here.
        timesteps: The part of the run in which it acts.
    """
    both = [_set(each, strength, set_cond_area, mask, hooks, timesteps) for each in (positive_NEW, negative_NEW)]
    return [*positive, *both[0]], [*negative, *both[1]]


@node(
    "PairConditioningSetDefaultCombine",
    "advanced/hooks/cond pair",
    title="Cond Pair Set Default Combine",
    outputs=(
        "positive",
        "negative",
    ),
    experimental=True,
)
def pair_conditioning_set_default_combine(
    positive: Conditioning,
    negative: Conditioning,
    positive_DEFAULT: Conditioning,
    negative_DEFAULT: Conditioning,
    hooks: Hooks | None = None,
) -> tuple[Conditioning, Conditioning]:
    """Adds a pair of conditionings that acts where no other does.

    Args:
        positive: What to draw, of the others.
        negative: What to avoid, of the others.
        positive_DEFAULT: What to draw.
        negative_DEFAULT: What to avoid.
        hooks: Changes of weights, which must not be given here.
    """
    _no_hooks(hooks)
    return [*positive, *changed(positive_DEFAULT, default=True)], [*negative, *changed(negative_DEFAULT, default=True)]


@node(
    "PairConditioningCombine",
    "advanced/hooks/cond pair",
    title="Cond Pair Combine",
    outputs=(
        "positive",
        "negative",
    ),
    experimental=True,
)
def pair_conditioning_combine(
    positive_A: Conditioning, negative_A: Conditioning, positive_B: Conditioning, negative_B: Conditioning
) -> tuple[Conditioning, Conditioning]:
    """Two pairs of conditionings at once.

    Args:
        positive_A: What to draw, of the first pair.
        negative_A: What to avoid, of the first pair.
        positive_B: What to draw, of the second pair.
        negative_B: What to avoid, of the second pair.
    """
    return [*positive_A, *positive_B], [*negative_A, *negative_B]


ZEROED = ("pooled_output", "conditioning_lyrics")
"""What ConditioningZeroOut sets to 0 as well as the embeddings."""


def _averaged(to: Entry, other: Entry, weight: float) -> Entry:
    (embeds, extra), (theirs, further) = to, other
    made = dict(extra)
    if "pooled_output" in further:
        own = extra.get("pooled_output", further["pooled_output"])
        made["pooled_output"] = weight * own + (1 - weight) * further["pooled_output"]
    return weight * embeds + (1 - weight) * _with_tokens(theirs, embeds.shape[1]), made


def _with_tokens(embeds: Tensor, n: int) -> Tensor:
    """Embeddings of n tokens: cut, or with zeros behind them."""
    short = embeds[:, :n]
    return torch.cat([short, short.new_zeros(len(short), n - short.shape[1], short.shape[2])], dim=1)


def _masked(conditioning: Sequence[Entry], mask: Tensor, strength: float, area: str) -> list[Entry]:
    mask = mask[None] if mask.ndim == 2 else mask
    return changed(conditioning, mask=mask, mask_strength=strength, set_area_to_bounds=area != "default")


def _set(
    conditioning: Sequence[Entry],
    strength: float,
    area: str,
    mask: Tensor | None,
    hooks: object,
    timesteps: tuple[float, float] | None,
) -> list[Entry]:
    _no_hooks(hooks)
    made = list(conditioning) if mask is None else _masked(conditioning, mask, strength, area)
    return made if timesteps is None else changed(made, start_percent=timesteps[0], end_percent=timesteps[1])


def _no_hooks(hooks: object) -> None:
    if hooks is not None:
        raise ValueError("hooks must not be given: weights that change during a run are not supported")
