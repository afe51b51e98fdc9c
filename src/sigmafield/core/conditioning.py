"""Conditionings: what the network is given as well as x, where it acts, and how it follows crops of the latent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Area:
    """A box of the latent: its size and its offset along each axis of space, (height, width) or with frames in front.

    relative: in shares of the latent, 0 … 1, instead of places. Raises ValueError if the two have other lengths.
    """

    size: tuple[int | float, ...]
    offset: tuple[int | float, ...]
    relative: bool = False

    def __post_init__(self) -> None:
        if len(self.size) != len(self.offset):
            raise ValueError(f"size and offset must have an entry for each axis; got {self.size} and {self.offset}")


class Residuals(NamedTuple):
    """What a control adds inside of a UNet: empty, or None, where it adds nothing.

    skips: to each skip connection of the way down; middle: behind the middle block; blocks: within each down block.
    """

    skips: Sequence[Tensor] = ()
    middle: Tensor | None = None
    blocks: Sequence[Tensor] = ()


@runtime_checkable
class ControlNetwork(Protocol):
    """A side network that reads a image: what a `Control` holds; `load_control` gives one."""

    @property
    def factor(self) -> int:
        """Pixels of the hint along a side for one place of the latent."""
        ...

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, hint: Tensor, strength: float, /) -> Residuals:
        """From the network's own inputs and the hint [B, 3, factor · height, factor · width], times the strength."""
        ...


@dataclass(frozen=True)
class Control:
    """A image that steers the network, by a side network that reads it. ControlNet, arXiv:2302.05543.

    hint: [B or 1, 3, height, width] in [0, 1], for the whole latent; another size is cut to the latent's proportions
    and resized. strength: factor of what is added, 0 = nothing; window: as a conditioning's.
    """

    net: ControlNetwork
    hint: Tensor
    strength: float = 1.0
    window: tuple[float | None, float | None] = (None, None)

    def __post_init__(self) -> None:
        if self.hint.ndim != 4 or self.hint.shape[1] != 3:
            raise ValueError(f"a control's hint must be [B, 3, height, width]; got shape {tuple(self.hint.shape)}")


@dataclass(frozen=True)
class Cond:
    """One conditioning: what the network is told besides x and the timestep, and where and when.

    embeds: token embeddings [B or 1, tokens, channels]; extra: further inputs by the network's own names
    (SDXL's `text_embeds` and `time_ids`), each with a leading axis of B or 1.
    strength: weight against other conditionings of the same prompt; area: the box that it acts in; mask: weights
    [M, *space] or [*space] at any resolution, times mask_strength; bounds: act in the box around the mask only;
    window: shares of the way through sampling between which it acts, 0 = start; default: acts where no other does.
    concat: further channels of the network's input [B or 1, C', *space], not scaled with x: an inpainting network's
    mask and image; controls: images that steer the network, whose effects add up.
    role: what it is to the guider that asks: positive, negative, …; the guider says so.
    """

    embeds: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    strength: float = 1.0
    area: Area | None = None
    mask: Tensor | None = None
    mask_strength: float = 1.0
    bounds: bool = False
    window: tuple[float | None, float | None] = (None, None)
    default: bool = False
    concat: Tensor | None = None
    controls: Sequence[Control] = ()
    role: str = ""


Prompt = Sequence[Cond]
"""The conditionings that make up one prompt."""


def fit(cond: Cond, space: Sequence[int]) -> Cond:
    """The conditioning with all that follows from the latent's size worked out: one that fits already is as it was.

    The area in places, with no bounds left; mask, concat and hints at the latent's resolution. `predict` does it at
    every evaluation; done once before a run, nothing is left for it to do.
    """
    mask = None if cond.mask is None else fitted(cond.mask, space)
    concat = None if cond.concat is None else fitted(cond.concat, space)
    controls = tuple(replace(c, hint=covering(c.hint, *(c.net.factor * n for n in space[-2:]))) for c in cond.controls)
    return replace(cond, area=absolute(cond, space), mask=mask, bounds=False, concat=concat, controls=controls)


def covering(hint: Tensor, height: int, width: int) -> Tensor:
    """A image [B, 3, H, W] at another size: its middle of those proportions, by nearest places, as in ComfyUI."""
    high, wide = hint.shape[2:]
    if (high, wide) == (height, width):
        return hint
    kept = min(high, round(wide * height / width)), min(wide, round(high * width / height))
    top, left = (high - kept[0]) // 2, (wide - kept[1]) // 2
    middle = hint[..., top : top + kept[0], left : left + kept[1]]
    return F.interpolate(middle, (height, width), mode="nearest-exact")


def cropped(cond: Cond, size: Sequence[int], offset: Sequence[int]) -> Cond:
    """A conditioning that fits the latent, for a box of it: what it has in every place is cut along, as `part` does."""
    concat = None if cond.concat is None else part(cond.concat, offset, size)
    controls = tuple(
        replace(c, hint=part(c.hint, *([c.net.factor * n for n in ends[-2:]] for ends in (offset, size))))
        for c in cond.controls
    )
    return replace(cond, concat=concat, controls=controls)


def absolute(cond: Cond, space: Sequence[int]) -> Area | None:
    """A conditioning's area in places; with `bounds`, the box around its mask, at least 8 by 8."""
    if cond.bounds and cond.mask is not None:
        inked = fitted(cond.mask, space).abs().amax(0) > 0
        if not inked.any():
            return Area((8, 8), (0, 0))
        low = [int(inked.any(1 - axis).nonzero().min()) for axis in (0, 1)]
        high = [int(inked.any(1 - axis).nonzero().max()) for axis in (0, 1)]
        return Area(tuple(max(8, last - first + 1) for first, last in zip(low, high)), tuple(low))
    area = cond.area
    if area is None or not area.relative:
        return area
    return Area(
        tuple(max(1, round(s * n)) for s, n in zip(area.size, space)),
        tuple(round(o * n) for o, n in zip(area.offset, space)),
    )


def fitted(mask: Tensor, space: Sequence[int]) -> Tensor:
    """A mask as [M, *space], or a concat as [B, C, *space]: bilinear over the last two axes for another resolution."""
    mask = mask[None] if mask.ndim == len(space) else mask
    if mask.shape[-len(space) :] == tuple(space):
        return mask
    flat = mask.reshape(1, -1, *mask.shape[-2:]).float()
    return F.interpolate(flat, tuple(space[-2:]), mode="bilinear").reshape(*mask.shape[:-2], *space[-2:])


def part(t: Tensor, offset: Sequence[int], size: Sequence[int]) -> Tensor:
    """A box of the last axes of t; outside of t its part within is mirrored, or repeated at the edge if too small."""
    for axis, (o, n) in enumerate(zip(offset, size), start=t.ndim - len(size)):
        low, high = max(o, 0), min(o + n, t.shape[axis])
        if (low, high) == (o, o + n):
            t = t.narrow(axis, o, n)
            continue
        at = torch.arange(o, o + n, device=t.device)
        if max(low - o, o + n - high) < high - low:
            at = torch.where(at < low, 2 * low - at, torch.where(at >= high, 2 * (high - 1) - at, at))
        t = t.index_select(axis, at.clamp(low, high - 1))
    return t


def same_controls(a: Cond, b: Cond) -> bool:
    """Whether two conditionings are steered by the same networks, as strongly and as long; hints may differ."""
    return len(a.controls) == len(b.controls) and all(
        c.net is d.net and (c.strength, c.window) == (d.strength, d.window) for c, d in zip(a.controls, b.controls)
    )
