"""Where conditionings act in a latent of known size: the box of each, and its weights there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sigmafield.core.conditioning import Cond, Prompt
from sigmafield.core.fitting import fit
from sigmafield.core.geometry import Box

Layout = tuple[tuple[Cond, ...], ...]
"""The conditionings of each prompt, as `place` gives them."""


def place(prompts: Sequence[Prompt], space: Sequence[int]) -> Layout:
    """Every prompt's conditionings in a latent of known size: they fit it, and areas are boxes within it.

    For each conditioning with an area, every other prompt is given a conditioning for that area, made from its own
    conditioning of the smallest box around it, so that all prompts are predicted on equal crops, as in ComfyUI.

    Args:
        prompts: The prompts that are evaluated together.
        space: Sides of the latent.

    Raises:
        ValueError: An area lies outside the latent.
    """
    placed = [[fit(cond, space) for cond in prompt] for prompt in prompts]
    for a, these in enumerate(placed):
        for b, those in enumerate(placed):
            if a != b:
                for cond in list(these):
                    if isinstance(cond.area, Box):
                        _mirror(cond, cond.area, those)
    return tuple(tuple(_clipped(cond, space) for cond in prompt) for prompt in placed)


def _mirror(cond: Cond, area: Box, those: list[Cond]) -> None:
    """Give a prompt a conditioning for an area of another's, unless it has one of just that area."""
    best: Cond | None = None
    for other in those:
        if other.area is None:
            best = best or other
        elif isinstance(other.area, Box) and other.area.holds(area) and _smaller(other.area, best):
            best = other
    if best is not None and best.area != area:
        those.append(
            replace(
                cond,
                area=area,
                embeds=best.embeds,
                extra=best.extra,
                concat=best.concat,
                image_prompts=best.image_prompts,
            )
        )


def _smaller(area: Box, best: Cond | None) -> bool:
    """Whether an area is smaller than that of the best conditioning so far."""
    return best is None or not isinstance(best.area, Box) or math.prod(area.size) < math.prod(best.area.size)


def _clipped(cond: Cond, space: Sequence[int]) -> Cond:
    """The conditioning with the part of its area within the latent."""
    if not isinstance(cond.area, Box):
        return cond
    offset, size = cond.area.offset, cond.area.size
    inside = [min(n, side - o) for n, o, side in zip(size, offset, space)]
    if min(inside) < 1:
        raise ValueError(f"the area {size} at {offset} lies outside the latent's {tuple(space)}")
    return replace(cond, area=Box.at(offset, inside))


def box_of(cond: Cond, space: Sequence[int]) -> Box:
    """The box that a placed conditioning acts in: its area, or the whole latent."""
    return cond.area if isinstance(cond.area, Box) else Box.at([0] * len(space), space)


def weight(cond: Cond, batch: int, space: Sequence[int]) -> Tensor:
    """Weights of a placed conditioning in its box, to broadcast over [B, C, *size].

    Mask times strength, or strength with a border that rises over 8 positions where an area ends within the latent.
    They are made where the mask is, as a rule on the CPU, so that nothing waits for a device.

    Args:
        cond: A conditioning that `place` gave.
        batch: Samples of the latent.
        space: Its sides.

    Raises:
        ValueError: The mask's number of samples does not divide the batch.
    """
    box = box_of(cond, space)
    if cond.mask is not None:
        mask = cond.mask[(..., *box.index)].float() * (cond.mask_strength * cond.strength)
        if batch % len(mask):
            raise ValueError(f"a mask must be for 1 sample or a divisor of the batch {batch}; got {len(mask)}")
        return mask.repeat(batch // len(mask), *[1] * len(space))[:, None]
    w = torch.full((1, 1, *box.size), cond.strength)
    if cond.area is None:
        return w
    for axis, (n, o, whole) in enumerate(zip(box.size, box.offset, space)):
        ramp = min(8, n // 4)
        line, rise = torch.ones(n), torch.arange(1, ramp + 1) / max(ramp, 1)
        if o:
            line[:ramp] *= rise
        if o + n < whole:
            line[n - ramp :] *= rise.flip(0)
        w = w * line.reshape(-1, *[1] * (len(space) - 1 - axis))
    return w
