"""Runs autoencoders on large images tile by tile, with group norms whose statistics all tiles share.

A group norm's mean and variance are over the whole image; with statistics of their own, tiles differ in colour. The
network is a generator that yields at each norm, so that all tiles can wait there for common statistics. It works on
modules with diffusers' names: AutoencoderKL, and the embedded model's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sigmafield.core.geometry import Box

Map = Float[Tensor, "batch channels height width"]
Out = Float[Tensor, "batch out high wide"]
Walk = Generator[tuple[nn.GroupNorm, Tensor], Tensor, Tensor]
"""Yields (norm, the map that it is asked for), is sent the normalised map, returns the network's output."""

Collected = Literal["pooled", "exact", "estimated", "estimated_start"]
"""Where statistics come from. pooled: means over the padded tiles, as in ComfyUI's node pack, without the variance
between tiles; exact: over the positions that tiles own, which is the whole image's norm; estimated: from one run on the
image made as small as a tile, so that tiles are independent; estimated_start: estimated down to the first change of
size, which sets the colours, then pooled."""


class Moments(NamedTuple):
    """Mean and variance of each sample's groups, [B, groups], and the number of positions they are taken over."""

    mean: Tensor
    variance: Tensor
    positions: int


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


def decode_walk(vae: Any, z: Tensor) -> Walk:
    """The walk through a decoder: latents [B, C, h, w] → images [B, 3, h · f, w · f]."""
    decoder = vae.decoder
    x = decoder.conv_in(z if vae.post_quant_conv is None else vae.post_quant_conv(z))
    x = yield from middle(decoder.mid_block, x)
    for block in decoder.up_blocks:
        x = yield from level(block.resnets, block.upsamplers, x)
    return decoder.conv_out(F.silu((yield decoder.conv_norm_out, x)))


def encode_walk(vae: Any, x: Tensor) -> Walk:
    """The walk through an encoder: images [B, 3, H, W] → means of latents [B, C, H/f, W/f]."""
    encoder = vae.encoder
    x = encoder.conv_in(x)
    for block in encoder.down_blocks:
        x = yield from level(block.resnets, block.downsamplers, x)
    x = yield from middle(encoder.mid_block, x)
    x = encoder.conv_out(F.silu((yield encoder.conv_norm_out, x)))
    return (x if vae.quant_conv is None else vae.quant_conv(x)).chunk(2, dim=1)[0]


def level(resnets: Iterable[Any], samplers: Iterable[Any] | None, x: Tensor) -> Walk:
    """Residual blocks, then another size where there is one."""
    for block in resnets:
        x = yield from resnet(block, x)
    for sampler in samplers or ():
        x = sampler(x)
    return x


def resnet(block: Any, x: Tensor) -> Walk:
    """shortcut(x) + conv₂ silu norm₂ conv₁ silu norm₁ x."""
    h = block.conv1(F.silu((yield block.norm1, x)))
    h = block.conv2(F.silu((yield block.norm2, h)))
    return h + (x if block.conv_shortcut is None else block.conv_shortcut(x))


def middle(block: Any, x: Tensor) -> Walk:
    """Residual block, attention within the tile if there is any, residual block."""
    x = yield from resnet(block.resnets[0], x)
    for attention, after in zip([*block.attentions, None], block.resnets[1:]):
        if attention is not None:
            tokens = (yield attention.group_norm, x).flatten(2).transpose(1, 2)
            q, k, v = (f(tokens)[:, None] for f in (attention.to_q, attention.to_k, attention.to_v))
            seen = attention.to_out[0](F.scaled_dot_product_attention(q, k, v)[:, 0])
            x = x + seen.transpose(1, 2).unflatten(2, x.shape[2:])
        x = yield from resnet(after, x)
    return x


def moments(norm: nn.GroupNorm, x: Tensor) -> Moments:
    """Mean and biased variance of each group over its channels and all positions, in float32 at least."""
    groups = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, (norm.num_groups, -1)).flatten(2)
    variance, mean = torch.var_mean(groups, dim=2, correction=0)
    return Moments(mean, variance, x.shape[2] * x.shape[3])


def normalised(norm: nn.GroupNorm, x: Tensor, at: Moments) -> Tensor:
    """γ (x − μ)/√(v + ε) + β with given statistics."""
    each = norm.num_channels // norm.num_groups
    mean, variance = (m.repeat_interleave(each, 1)[..., None, None] for m in (at.mean, at.variance))
    weight, bias = norm.weight[:, None, None], norm.bias[:, None, None]
    return (((x - mean) * (variance + norm.eps).rsqrt()).to(x.dtype) * weight + bias).to(x.dtype)


def together(tiles: Sequence[Moments], exact: bool) -> Moments:
    """Combines the statistics of tiles, weighted by positions; exact: with the variance of their means."""
    positions = sum(t.positions for t in tiles)
    shares = [t.positions / positions for t in tiles]
    mean = _sum([q * t.mean for q, t in zip(shares, tiles)])
    variance = _sum([q * t.variance for q, t in zip(shares, tiles)])
    if exact:
        variance = variance + _sum([q * (t.mean - mean) ** 2 for q, t in zip(shares, tiles)])
    return Moments(mean, variance, positions)


def _sum(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum(0)


def recorded(walk: Walk) -> Iterator[Moments]:
    """The statistics of every norm of a walk, in order."""
    try:
        norm, x = next(walk)
        while True:
            at = moments(norm, x)
            yield at
            norm, x = walk.send(normalised(norm, x, at))
    except StopIteration:
        return


def alone(walk: Walk, statistics: Sequence[Moments]) -> Tensor:
    """The output of a walk whose every norm has given statistics."""
    try:
        norm, x = next(walk)
        for at in statistics:
            norm, x = walk.send(normalised(norm, x, at))
    except StopIteration as end:
        return end.value
    raise ValueError(f"the network has more than the {len(statistics)} norms that statistics are given for")


def in_step(walks: Sequence[Walk], parts: Sequence[Part], known: Sequence[Moments], exact: bool) -> list[Tensor]:
    """The outputs of walks that meet at every norm; the first ones have known statistics, the others common ones."""
    asked, k = [next(walk) for walk in walks], 0
    while True:
        if k < len(known):
            at = known[k]
        else:
            own = [x[(..., *part.within(x.shape[2]))] if exact else x for (_, x), part in zip(asked, parts)]
            at = together([moments(norm, x) for (norm, _), x in zip(asked, own)], exact)
        k, out = k + 1, []
        for j, walk in enumerate(walks):
            norm, x = asked[j]
            try:
                asked[j] = walk.send(normalised(norm, x, at))
            except StopIteration as end:
                out.append(end.value)
        if out:
            return out


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
    """Resizes an image to `tile` positions on its longer side, keeping each channel's mean and deviation."""
    size = [max(1, round(n * tile / max(x.shape[2:]))) for n in x.shape[2:]]
    small = F.interpolate(x, size, mode="nearest-exact")
    std, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
    own_std, own_mean = torch.std_mean(small, dim=(0, 2, 3), keepdim=True)
    small = (small - own_mean) / own_std.clamp(min=1e-12) * std + mean
    return torch.minimum(torch.maximum(small, x.min()), x.max())


def tiled(
    walk: Callable[[Tensor], Walk], x: Map, layout: Sequence[Part], tile: int, collected: Collected, start: int
) -> Out:
    """Runs a network on tiles; start: norms before the first change of size, for `estimated_start`."""
    known: list[Moments] = []
    if collected.startswith("estimated") and len(layout) > 1:
        estimate = recorded(walk(smaller(x, tile)))
        known = [at for k, at in enumerate(estimate) if collected == "estimated" or k < start]
        if not all(bool((at.mean + at.variance).isfinite().all()) for at in known):
            known, collected = [], "pooled"
    crops = [x[(..., *part.shown.index)] for part in layout]
    if known and collected == "estimated":
        outs: list[Tensor] | Iterator[Tensor] = (alone(walk(crop), known) for crop in crops)
    else:
        outs = iter(in_step([walk(crop) for crop in crops], layout, known, collected == "exact"))
    whole: Tensor | None = None
    for part, out in zip(layout, outs):
        ratio = out.shape[2] / part.shown.height
        if whole is None:
            whole = out.new_empty(*out.shape[:2], *(round(n * ratio) for n in x.shape[2:]))
        at = Box(*(round(side * ratio) for side in part.taken))
        whole[(..., *at.index)] = out[(..., *part.within(out.shape[2]))]
    assert whole is not None
    return whole


def tiled_decode(vae: Any, z: Map, tile: int = 64, *, pad: int = 11, collected: Collected = "estimated") -> Out:
    """Decodes latents tile by tile, as `vae.decode` does in one piece; attention is within tiles.

    Args:
        vae: The module.
        z: Latents [B, C, h, w].
        tile: Latent positions along a side that a tile owns, at most; ≥ 1.
        pad: Further positions that the network sees on every side; ≥ 0.
        collected: Where the norms' statistics come from.
    """
    _check(tile, pad)
    layout = parts(z.shape[2], z.shape[3], tile, pad)
    return tiled(lambda part: decode_walk(vae, part), z, layout, tile, collected, start=0)


def tiled_encode(vae: Any, x: Map, tile: int = 512, *, pad: int = 32, collected: Collected = "estimated") -> Out:
    """Encodes images tile by tile; returns the means of the latents.

    Args:
        vae: The module.
        x: Images [B, 3, H, W] in [−1, 1], with sides that are multiples of the VAE's factor.
        tile: Pixels along a side that a tile owns, at most, rounded up to a multiple of the factor; ≥ 1.
        pad: Further pixels that the network sees on every side, rounded up likewise; ≥ 0.
        collected: Where the norms' statistics come from; estimated_start keeps colours better, and holds the lower
            levels of all tiles in memory.
    """
    _check(tile, pad)
    blocks = vae.encoder.down_blocks
    factor = 2 ** sum(bool(block.downsamplers) for block in blocks)
    layout = parts(x.shape[2], x.shape[3], tile, -(-pad // factor) * factor, factor)
    start = 2 * len(blocks[0].resnets)
    return tiled(lambda part: encode_walk(vae, part), x, layout, tile, collected, start)


def _check(tile: int, pad: int) -> None:
    if tile < 1 or pad < 0:
        raise ValueError(f"tile must be ≥ 1 and pad ≥ 0; got {tile} and {pad}")
