"""How conditionings follow the latent: its size, and the views of it that networks are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from sigmafield.core.conditioning import Area, Cond, Control, ImagePrompt
from sigmafield.core.geometry import Box
from sigmafield.core.resize import resize_mask
from sigmafield.core.views import View


def fit(cond: Cond, space: Sequence[int]) -> Cond:
    """The conditioning with everything that follows from the latent's size worked out.

    Its area is a `Box`, without `bounds`; masks, concat and hints have the latent's resolution. `predict` does this
    at the first evaluation of a guider; done once before a run, it leaves nothing to do.

    Args:
        cond: A conditioning.
        space: Sides of the latent, (height, width) or with frames in front.
    """
    if not (spatial(cond) or cond.area is not None or cond.mask is not None or cond.bounds):
        return cond
    mask = None if cond.mask is None else fit_to(cond.mask, space)
    concat = None if cond.concat is None else fit_to(cond.concat, space)
    area = cond.area.box(space) if isinstance(cond.area, Area) else cond.area and cond.area.spanning(space)
    if cond.bounds and mask is not None:
        area = around(mask, space)
    controls = tuple(_fitting(control, area, space) for control in cond.controls)
    prompts = masks_changed(cond, lambda mask: fit_to(mask, space))
    return replace(
        cond, area=area, mask=mask, bounds=False, concat=concat, controls=controls, image_prompts=prompts
    )  # fmt: skip


def spatial(cond: Cond) -> bool:
    """Whether the network is given something of the latent's size as well: a concat, hints, masks of images."""
    return cond.concat is not None or bool(cond.controls) or any(p.mask is not None for p in cond.image_prompts)


def masks_changed(cond: Cond, change: Callable[[Tensor], Tensor]) -> tuple[ImagePrompt, ...]:
    """The conditioning's images with other masks."""
    return tuple(p if p.mask is None else replace(p, mask=change(p.mask)) for p in cond.image_prompts)


def fit_to(t: Tensor, space: Sequence[int]) -> Tensor:
    """A mask as [M, *space], or a concat as [B, C, *space]; frames keep their number."""
    t = t[None] if t.ndim == len(space) else t
    plane = space[-2:]
    return t if t.shape[-len(plane) :] == tuple(plane) else resize_mask(t.float(), plane)


def around(mask: Tensor, space: Sequence[int]) -> Box:
    """The box around what is not 0 of a mask [M, height, width], at least 8 by 8, and 8 by 8 where all is 0."""
    inked = mask.abs().amax(0) > 0
    if not inked.any():
        return Box(0, 0, 8, 8).spanning(space)
    low = [int(inked.any(1 - axis).nonzero().min()) for axis in (0, 1)]
    high = [int(inked.any(1 - axis).nonzero().max()) for axis in (0, 1)]
    return Box.at(low, [max(8, last - first + 1) for first, last in zip(low, high)]).spanning(space)


def _fitting(control: Control, area: Box | None, space: Sequence[int]) -> Control:
    """The control with a hint of the whole latent's size, to be cut along with it."""
    factor, (height, width) = control.net.factor, space[-2:]
    if area is None or control.crop == "along":
        return replace(control, hint=covering(control.hint, factor * height, factor * width))
    box = area.plane.clipped(height, width).scaled(factor)
    hint = control.hint.new_zeros(*control.hint.shape[:2], factor * height, factor * width)
    if min(box.height, box.width) > 0:
        hint[(..., *box.index)] = covering(control.hint, box.height, box.width)
    return replace(control, hint=hint, crop="along")


def covering(hint: Tensor, height: int, width: int) -> Tensor:
    """An image [B, 3, H, W] at another size: its middle part of those proportions, by nearest pixels, as in ComfyUI.

    Of the side that is too long, round((n − n · ratio)/2) pixels are cut off at both ends, ratio the one of the
    proportions.
    """
    high, wide = hint.shape[2:]
    if (high, wide) == (height, width):
        return hint
    old, new = wide / high, width / height
    top = round((high - high * (old / new)) / 2) if old < new else 0
    left = round((wide - wide * (new / old)) / 2) if old > new else 0
    return F.interpolate(hint[..., top : high - top, left : wide - left], (height, width), mode="nearest-exact")


def transformed(cond: Cond, view: View) -> Cond:
    """The conditioning of a view: its concat, masks and hints as the view shows them, and its rows.

    Args:
        cond: A conditioning that fits the latent.
        view: What is shown of the latent.
    """
    if view.rows is not None:
        change = view.rows
        return replace(
            cond,
            embeds=change(cond.embeds),
            extra={name: change(value) for name, value in cond.extra.items()},
            concat=None if cond.concat is None else change(cond.concat),
            controls=tuple(replace(c, hint=change(c.hint)) for c in cond.controls),
            image_prompts=tuple(replace(p, tokens=change(p.tokens)) for p in masks_changed(cond, change)),
        )
    if cond.mask is None and not spatial(cond):
        return cond
    return replace(
        cond,
        concat=None if cond.concat is None else view.latent(cond.concat),
        mask=None if cond.mask is None else view.latent(cond.mask),
        controls=tuple(replace(c, hint=view.hint(c.hint, c.net.factor)) for c in cond.controls),
        image_prompts=masks_changed(cond, view.latent),
    )
