"""Autoencoders on large images, tile by tile, with group norms whose statistics all tiles share.

A group norm's mean and variance are of the whole image: tiles that each have their own differ in colour. Here the
network is walked norm by norm, as a generator that asks for each normalised map, so that all tiles can meet there. It
works on modules with diffusers' names: AutoencoderKL, and the embedded model's.
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
between tiles; exact: of the places that tiles own, which is the whole image's norm; estimated: one run on the image
made as small as a tile, so that tiles are independent; estimated_start: estimated down to the first change of size,
which sets the colours, then pooled."""


class Moments(NamedTuple):
    """Mean and variance of each sample's groups, [B, groups], and the number of places behind them."""

    mean: Tensor
    variance: Tensor
    places: int


@dataclass(frozen=True)
class Part:
    """What a tile is shown, and which part of the network's output is taken from it; both in the input's places."""

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
    """Mean and biased variance of each group over its channels and all places, in float32 at least."""
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
    """Statistics of all tiles: means by number of places; exact: with the variance of their means."""
    places = sum(t.places for t in tiles)
    shares = [t.places / places for t in tiles]
    mean = _sum([q * t.mean for q, t in zip(shares, tiles)])
    variance = _sum([q * t.variance for q, t in zip(shares, tiles)])
    if exact:
        variance = variance + _sum([q * (t.mean - mean) ** 2 for q, t in zip(shares, tiles)])
    return Moments(mean, variance, places)


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
    """Tiles of about equal size, at most `tile` places that they own, each shown `pad` places more on every side.

    Tiles at the border own what is beyond it too; their sides are multiples of `unit`, else if possible of 32, 16, 8, 4
    or 2.
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
    """The least multiple of 32, else 16, 8, 4 or 2, that lies between two lengths; `least` if there is none."""
    for m in (32, 16, 8, 4, 2):
        up = -(-least // m) * m
        if up <= most or up == least:
            return up
    return least


def smaller(x: Tensor, tile: int) -> Tensor:
    """The image with `tile` places on its longer side, by nearest places, with each channel's mean and deviation."""
    size = [max(1, round(n * tile / max(x.shape[2:]))) for n in x.shape[2:]]
    small = F.interpolate(x, size, mode="nearest-exact")
    std, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
    own_std, own_mean = torch.std_mean(small, dim=(0, 2, 3), keepdim=True)
    small = (small - own_mean) / own_std.clamp(min=1e-12) * std + mean
    return torch.minimum(torch.maximum(small, x.min()), x.max())


def tiled(
    walk: Callable[[Tensor], Walk], x: Map, layout: Sequence[Part], tile: int, collected: Collected, start: int
) -> Out:
    """The output of a network on tiles. start: norms before the first change of size, for `estimated_start`."""
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
    """Images of latents [B, C, h, w], tile by tile: `vae.decode` of a image of any size in little memory.

    tile: places of the latent that a tile owns, at most; pad: places more that it is shown on every side. Attention is
    within tiles. Raises ValueError for a tile below 1 and a pad below 0.
    """
    _check(tile, pad)
    layout = parts(z.shape[2], z.shape[3], tile, pad)
    return tiled(lambda part: decode_walk(vae, part), z, layout, tile, collected, start=0)


def tiled_encode(vae: Any, x: Map, tile: int = 512, *, pad: int = 32, collected: Collected = "estimated") -> Out:
    """Means of latents of images [B, 3, H, W] in [−1, 1] with sides that are multiples of the VAE's factor.

    tile, pad: in pixels, see `tiled_decode`; made multiples of the factor. estimated_start keeps colours better, and
    holds the lower levels of all tiles in memory. Raises ValueError as `tiled_decode` does.
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
