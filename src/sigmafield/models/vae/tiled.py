"""Runs autoencoders on large images in little memory: in bands, or tile by tile with statistics that all tiles share.

With group norms of their own, tiles differ in colour. Each sample of a batch is run by itself, and so does not depend
on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sigmafield.core.geometry import Box
from sigmafield.models.vae.banded import banded
from sigmafield.models.vae.walk import Moments, Walk, alone, decode_walk, encode_walk, moments, ran, recorded, to_norm
from sigmafield.models.vae.walk import together as combined

Map = Float[Tensor, "batch channels height width"]
Out = Float[Tensor, "batch out high wide"]

Collected = Literal["exact", "pooled", "estimated", "estimated_start"]
"""How an image is run.

exact: as a whole, layer by layer in bands of rows, so that the result is that of the network in one call, in less
memory. The others run tiles, whose attention is within a tile and whose norms share statistics. pooled: means
over the padded tiles, as in ComfyUI's node pack, without the variance between tiles; estimated: from one run on the
image made as small as a tile, so that tiles are independent and memory does not grow with the image; estimated_start:
estimated down to the first change of size, then pooled."""


@dataclass(frozen=True)
class Part:
    """A tile: the box that the network sees, and the box of its output that is used, both in input positions."""

    shown: Box
    taken: Box

    def within(self, size: int) -> tuple[slice, slice]:
        """Index of the part that is taken in a map whose height is `size` for the whole of what is shown."""
        ratio = size / self.shown.height
        y, x = self.taken.y - self.shown.y, self.taken.x - self.shown.x
        ends = [(y, y + self.taken.height), (x, x + self.taken.width)]
        (top, bottom), (left, right) = ([round(end * ratio) for end in pair] for pair in ends)
        return slice(top, bottom), slice(left, right)


def in_step(walks: Sequence[Walk], known: Sequence[Moments]) -> list[Tensor]:
    """The outputs of walks that meet at every norm; the first norms have known statistics, the others common ones."""
    asked, k = [to_norm(walk, next(walk)) for walk in walks], 0
    while True:
        own = [moments(part.norm, part.first) for part in asked if part.norm is not None] if k >= len(known) else []
        at = combined(own, exact=False) if own else known[k]
        k, outs = k + 1, list[Tensor]()
        for j, walk in enumerate(walks):
            try:
                asked[j] = to_norm(walk, walk.send(ran(asked[j], at)))
            except StopIteration as end:
                outs.append(end.value)
        if outs:
            return outs


def parts(height: int, width: int, tile: int, pad: int, unit: int = 1) -> list[Part]:
    """Divides a map into tiles of about equal size.

    Args:
        height: Height of the map.
        width: Width of the map.
        tile: Positions along a side that a tile owns, at most; those at the border also own the padding there.
        pad: Further positions that the network sees on every side.
        unit: What sides are multiples of; if possible, also of 32, 16, 8, 4 or 2.
    """

    def cuts(length: int) -> list[tuple[int, int]]:
        n = max(-(-(length - 2 * pad) // tile), 1)
        side = -(-_even(-(-(length - 2 * pad) // n), tile) // unit) * unit
        ends = [(pad + i * side, min(pad + (i + 1) * side, length)) for i in range(n)]
        return [(a, b) for a, b in ends if a == pad or a < length - pad]

    def boxes(length: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        return [
            ((max(a - pad, 0), min(b + pad, length)), (a if a > pad else 0, b if b < length - pad else length))
            for a, b in cuts(length)
        ]

    return [
        Part(Box(y0, x0, y1 - y0, x1 - x0), Box(v0, u0, v1 - v0, u1 - u0))
        for (y0, y1), (v0, v1) in boxes(height)
        for (x0, x1), (u0, u1) in boxes(width)
    ]


def _even(least: int, most: int) -> int:
    """Finds the least multiple of 32, else 16, 8, 4 or 2, between two lengths; otherwise returns `least`."""
    for m in (32, 16, 8, 4, 2):
        up = -(-least // m) * m
        if up <= most or up == least:
            return up
    return least


def smaller(x: Tensor, tile: int) -> Tensor:
    """Resizes an image to `tile` positions on its longer side, keeping each sample's mean and deviation by channel."""
    size = [max(1, round(n * tile / max(x.shape[2:]))) for n in x.shape[2:]]
    small = F.interpolate(x, size, mode="nearest-exact")
    std, mean = torch.std_mean(x, dim=(2, 3), keepdim=True)
    own_std, own_mean = torch.std_mean(small, dim=(2, 3), keepdim=True)
    small = (small - own_mean) / own_std.clamp(min=1e-12) * std + mean
    return torch.minimum(torch.maximum(small, x.amin((1, 2, 3), True)), x.amax((1, 2, 3), True))


def from_tiles(
    walk: Callable[[Tensor], Walk], x: Map, layout: Sequence[Part], tile: int, collected: Collected, start: int
) -> Out:
    """Runs a network on the tiles of one sample; start: norms before the first change of size."""
    known: list[Moments] = []
    if collected != "pooled" and len(layout) > 1:
        estimate = recorded(walk(smaller(x, tile)))
        known = [at for k, at in enumerate(estimate) if collected == "estimated" or k < start]
        if not all(bool((at.mean + at.variance).isfinite().all()) for at in known):
            known, collected = [], "pooled"
    crops = (x[(..., *part.shown.index)] for part in layout)
    if known and collected == "estimated":
        outs: Iterator[Tensor] = (alone(walk(crop), known) for crop in crops)
    else:
        outs = iter(in_step([walk(crop) for crop in crops], known))
    whole: Tensor | None = None
    for part, out in zip(layout, outs):
        ratio = out.shape[2] / part.shown.height
        if whole is None:
            whole = out.new_empty(*out.shape[:2], *(round(n * ratio) for n in x.shape[2:]))
        at = Box(*(round(side * ratio) for side in part.taken))
        whole[(..., *at.index)] = out[(..., *part.within(out.shape[2]))]
    assert whole is not None
    return whole


def by_sample(run: Callable[[Tensor], Tensor], x: Map) -> Out:
    """The results of the samples of a batch, each run by itself."""
    outs = [run(sample) for sample in x.split(1)]
    return outs[0] if len(outs) == 1 else torch.cat(outs)


@torch.no_grad()
def tiled_decode(vae: Any, z: Map, tile: int = 64, *, pad: int = 11, collected: Collected = "exact") -> Out:
    """Decodes latents in little memory, as `vae.decode` does in one piece.

    Args:
        vae: The module.
        z: Latents [B, C, h, w].
        tile: Latent positions along a side that a tile owns, at most; ≥ 1. Bands are of about as many positions.
        pad: Further positions that the network sees on every side of a tile; ≥ 0.
        collected: How the image is run.

    Raises:
        ValueError: tile is below 1, or pad below 0.
    """
    _check(tile, pad)
    walk, factor = partial(decode_walk, vae), 2 ** sum(bool(block.upsamplers) for block in vae.decoder.up_blocks)
    if collected == "exact":
        return by_sample(lambda one: banded(walk(one), tile * tile * factor), z)
    layout = parts(z.shape[2], z.shape[3], tile, pad)
    return by_sample(lambda one: from_tiles(walk, one, layout, tile, collected, start=0), z)


@torch.no_grad()
def tiled_encode(vae: Any, x: Map, tile: int = 512, *, pad: int = 32, collected: Collected = "exact") -> Out:
    """Encodes images in little memory; returns the means of the latents.

    Args:
        vae: The module.
        x: Images [B, 3, H, W] in [−1, 1], with sides that are multiples of the VAE's factor.
        tile: Pixels along a side that a tile owns, at most, rounded up to a multiple of the factor; ≥ 1. Bands are of
            about as many latent positions.
        pad: Further pixels that the network sees on every side of a tile, rounded up likewise; ≥ 0.
        collected: How the image is run; estimated_start keeps colours better than estimated, and holds the lower levels
            of all tiles in memory.

    Raises:
        ValueError: tile is below 1, or pad below 0.
    """
    _check(tile, pad)
    blocks = vae.encoder.down_blocks
    walk, factor = partial(encode_walk, vae), 2 ** sum(bool(block.downsamplers) for block in blocks)
    if collected == "exact":
        return by_sample(lambda one: banded(walk(one), tile * tile // factor), x)
    layout = parts(x.shape[2], x.shape[3], tile, -(-pad // factor) * factor, factor)
    start = 2 * len(blocks[0].resnets)
    return by_sample(lambda one: from_tiles(walk, one, layout, tile, collected, start), x)


def _check(tile: int, pad: int) -> None:
    if tile < 1 or pad < 0:
        raise ValueError(f"tile must be ≥ 1 and pad ≥ 0; got {tile} and {pad}")
