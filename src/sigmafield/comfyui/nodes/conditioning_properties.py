"""Nodes that set several properties of a conditioning at once, or of a pair of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from torch import Tensor

from sigmafield.comfyui.conditioning import Entry, changed
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.nodes.conditioning import Bounds, masked
from sigmafield.comfyui.sockets import Socket
from sigmafield.comfyui.values import Conditioning, Mask
from sigmafield.comfyui.widgets import Percent, Strength

Timesteps = Annotated[tuple[float, float], Socket("TIMESTEPS_RANGE")]
"""Shares of the way through sampling, 0 = start."""
Hooks = Annotated[Any, Socket("HOOKS")]


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


def _set(
    conditioning: Sequence[Entry],
    strength: float,
    area: str,
    mask: Tensor | None,
    hooks: object,
    timesteps: tuple[float, float] | None,
) -> list[Entry]:
    _no_hooks(hooks)
    made = list(conditioning) if mask is None else masked(conditioning, mask, strength, area)
    return made if timesteps is None else changed(made, start_percent=timesteps[0], end_percent=timesteps[1])


def _no_hooks(hooks: object) -> None:
    if hooks is not None:
        raise ValueError("hooks must not be given: weights that change during a run are not supported")
