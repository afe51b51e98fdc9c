"""Runs a walk on the whole image, layer by layer in bands of rows: its result, in less memory.

Between two norms a row depends on a few rows around it only, so each layer is run band by band into its result, or,
where nothing needs its input any more, into the input itself. At any time there are a layer's input and its result, and
what a band needs; the whole network in one call needs several maps more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sigmafield.models.vae.walk import Part, Walk, moments, normalised, ran, together

HALO = 2
"""Rows on each side that a layer's result depends on, rounded up to whole rows after a change of size."""


def banded(walk: Walk, positions: int) -> Tensor:
    """The output of a walk.

    Args:
        walk: A walk from the whole image.
        positions: Of a map, in one band.
    """
    try:
        part = next(walk)
        while True:
            part = walk.send(_result(part, positions))
    except StopIteration as end:
        return end.value


def _result(part: Part, positions: int) -> Tensor:
    height, width = part.first.shape[2:]
    rows = max(positions // width // HALO, 4) * HALO
    bands = [(a, min(a + rows, height)) for a in range(0, height, rows)]
    at = None if part.norm is None else together([moments(part.norm, part.first[:, :, a:b]) for a, b in bands], True)
    if not part.local or len(bands) == 1:
        return ran(part, at)
    first, out, above = part.first, None, part.first[:, :, :0]
    for a, b in bands:
        end = min(b + HALO, height)
        shown = torch.cat([above, first[:, :, a:end]], 2)
        above_next = first[:, :, b - HALO : b].clone()  # before the result may take the place of these rows
        others = [other[:, :, a - above.shape[2] : end] for other in part.others]
        shown = shown if part.norm is None or at is None else normalised(part.norm, shown, at)
        band = part.run(shown, *others)
        ratio = band.shape[2] / shown.shape[2]
        own = band[:, :, round(above.shape[2] * ratio) : round((above.shape[2] + b - a) * ratio)]
        if out is None:
            size = round(height * ratio), round(width * ratio)
            same = part.last and own.dtype == first.dtype and (*own.shape[:2], *size) == tuple(first.shape)
            out = first if same else own.new_empty(*own.shape[:2], *size)
        out[:, :, round(a * ratio) : round(b * ratio)] = own
        above = above_next
    assert out is not None
    return out
