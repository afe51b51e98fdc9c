"""A square mask, its blurred form, and the step that an image has across its border."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def square(side: int, share: float) -> Tensor:
    """A centred square, 1 in it and 0 elsewhere, [side, side], float64."""
    size = min(max(round(side * share), 1), side - 1)
    first = (side - size) // 2
    mask = torch.zeros(side, side, dtype=torch.float64)
    mask[first : first + size, first : first + size] = 1
    return mask


def soft(mask: Tensor, feather: float) -> Tensor:
    """The mask, blurred by a box of about `feather` of the side on each side of its edge."""
    radius = max(1, round(feather * mask.shape[-1]))
    padded = F.pad(mask[None, None], [radius] * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1)[0, 0]


def step_across(x: Tensor, mask: Tensor) -> float:
    """Root mean square difference of neighbours of which one is in the square and one is not, of [B, C, h, w]."""
    found = []
    for axis in (-2, -1):
        n = mask.shape[axis] - 1
        crossing = mask.narrow(axis, 0, n) != mask.narrow(axis, 1, n)
        found.append((x.narrow(axis, 0, n) - x.narrow(axis, 1, n))[..., crossing].flatten())
    return float(torch.cat(found).double().square().mean().sqrt())
