"""What one call of a network is made of: conditionings stacked into rows, a noise level per row, shares of the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from sigmafield.core.arrays import Sigma
from sigmafield.core.conditioning import Cond, Control, ImagePrompt, same_adapters, same_controls
from sigmafield.core.linear import filled
from sigmafield.core.process import Clock, per_sample
from sigmafield.core.time_windows import within


def stack(conds: Sequence[Cond], each: int) -> Cond:
    """Joins several conditionings into one with `each` rows for each of them, in order.

    Args:
        conds: Conditionings with the same extra inputs, controls and adapters.
        each: Rows of each conditioning, its batch size in the call.

    Raises:
        ValueError: If a conditioning has other controls or adapters than the first.
    """
    first = conds[0]
    if not all(same_controls(first, c) for c in conds):
        raise ValueError(
            "the conditionings of one network call must have the same controls, with equal strengths and windows"
        )
    if not all(same_adapters(first, c) for c in conds):
        raise ValueError(
            "the conditionings of one network call must have the same image prompts, with equal weights and windows"
        )

    def join(tensors: list[Tensor]) -> Tensor:
        return torch.cat([filled(t, each, axis=0) for t in tensors])

    extra = {key: join([c.extra[key] for c in conds]) for key in first.extra}
    concat = [c.concat for c in conds if c.concat is not None]
    return Cond(
        join(repeated([c.embeds for c in conds])),
        extra,
        concat=join(concat) if concat else None,
        controls=[
            replace(control, hint=join([c.controls[i].hint for c in conds])) for i, control in enumerate(first.controls)
        ],
        image_prompts=[_joined(each, join) for each in zip(*(c.image_prompts for c in conds))],
    )


def _joined(prompts: Sequence[ImagePrompt], join: Callable[[list[Tensor]], Tensor]) -> ImagePrompt:
    """One image of each conditioning as one, with the rows of all."""
    masks = [each.mask for each in prompts if each.mask is not None]
    return replace(
        prompts[0], tokens=join([each.tokens for each in prompts]), mask=join(masks) if masks else None
    )  # fmt: skip


def rows(cond: Cond, some: slice) -> Cond:
    """Takes some rows of a stacked conditioning."""
    return Cond(
        cond.embeds[some],
        {key: value[some] for key, value in cond.extra.items()},
        concat=None if cond.concat is None else cond.concat[some],
        controls=[replace(control, hint=control.hint[some]) for control in cond.controls],
        image_prompts=[
            replace(each, tokens=each.tokens[some], mask=None if each.mask is None else each.mask[some])
            for each in cond.image_prompts
        ],
    )


def repeated(embeds: Sequence[Tensor]) -> list[Tensor]:
    """Repeats embeddings [B, tokens, C] along the tokens up to their least common multiple, as ComfyUI does."""
    length = math.lcm(*(e.shape[1] for e in embeds))
    return [e if e.shape[1] == length else e.repeat(1, length // e.shape[1], 1) for e in embeds]


def shares(n: int, most: int | None) -> list[slice]:
    """Divides n rows into as few parts of nearly equal length as `most` rows per part allow; None: one part."""
    calls = max(1, -(-n // (most or n or 1)))
    ends = [n * i // calls for i in range(calls + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]


def by_row(sigma: Sigma, n: int, name: str) -> Tensor:
    """Gives the noise level of each of n samples.

    Args:
        sigma: Field [B or 1, 1, *space] with one level per sample.
        n: Number of samples.
        name: The model's name, for the error.

    Returns:
        Levels [n, 1, …] with as many axes as sigma.

    Raises:
        ValueError: If the level varies within a sample.
    """
    levels = per_sample(sigma)
    if levels is None:
        raise ValueError(
            f"{name} takes one sigma per sample; got a field of shape {tuple(sigma.shape)}: "
            "put spatial.field_denoiser.Served around the guider"
        )
    return filled(levels, n, axis=0).reshape(-1, *[1] * (sigma.ndim - 1))


def of_tokens(sigma: Sigma, patch: Sequence[int]) -> Tensor:
    """Averages a field [B, 1, *space] over each token's positions: [B, tokens], the last axis fastest.

    Args:
        sigma: The field.
        patch: Positions of a token along each axis of space.
    """
    for axis, p in enumerate(patch, start=2):
        sigma = sigma.unflatten(axis, (-1, p)).mean(axis + 1)
    return sigma.flatten(1)


def acting(sigma: Sigma, cond: Cond, clock: Clock) -> Cond:
    """Keeps only the controls and images that act at σ.

    Raises:
        ValueError: If one acts for some samples and not for others.
    """
    if not cond.controls and not cond.image_prompts:
        return cond

    def acts(each: Control | ImagePrompt, what: str) -> bool:
        inside = within(each.window, sigma, clock)
        if inside.any() and not inside.all():
            raise ValueError(
                f"{what} window ends between the noise levels of the samples; "
                "give it no window, or all samples the same level"
            )
        return bool(inside.all())

    return replace(
        cond,
        controls=tuple(c for c in cond.controls if c.strength and acts(c, "a control's")),
        image_prompts=tuple(p for p in cond.image_prompts if any(p.weights) and acts(p, "an image prompt's")),
    )
