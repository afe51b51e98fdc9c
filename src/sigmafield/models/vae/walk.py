"""Autoencoders as walks: generators that stop at every operation, so that norms may be given other statistics.

A group norm's mean and variance are over the whole image, while everything else between two norms is local. A walk
yields these parts one by one; who runs it decides on what each is run. It works on modules with diffusers' names:
AutoencoderKL, and the embedded model's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Part(NamedTuple):
    """An operation of a walk: `run(first, *others)`, where the first map is normalised before if there is a norm.

    Args:
        run: Maps of one size → a map; it may change the first one, which is its own where there is a norm.
        first: The first map.
        others: Further maps.
        norm: The norm of the first map.
        local: Whether a row of the result depends on no more than two rows around it.
        last: Whether nothing needs the first map after that, so that the result may take its place.
    """

    run: Callable[..., Tensor]
    first: Tensor
    others: tuple[Tensor, ...] = ()
    norm: nn.GroupNorm | None = None
    local: bool = True
    last: bool = False


Walk = Generator[Part, Tensor, Tensor]
"""Yields parts, is sent their results, returns the network's output."""

Block = Callable[[Tensor], Walk]


class Moments(NamedTuple):
    """Mean and variance of each sample's groups, [B, groups], and the number of positions they are taken over."""

    mean: Tensor
    variance: Tensor
    positions: int


def decode_walk(vae: Any, z: Tensor) -> Walk:
    """The walk through a decoder: latents [B, C, h, w] → images [B, 3, h · f, w · f]."""
    decoder = vae.decoder
    blocks = [
        partial(local, lambda z: decoder.conv_in(z if vae.post_quant_conv is None else vae.post_quant_conv(z))),
        *middle(decoder.mid_block),
        *(block for level in decoder.up_blocks for block in blocks_of(level, level.upsamplers)),
    ]
    end = partial(normed, decoder.conv_norm_out, lambda x: decoder.conv_out(F.silu(x, inplace=True)))
    return chained([*blocks, end], z)


def encode_walk(vae: Any, x: Tensor) -> Walk:
    """The walk through an encoder: images [B, 3, H, W] → means of latents [B, C, H/f, W/f]."""
    encoder = vae.encoder

    def out(x: Tensor) -> Tensor:
        x = encoder.conv_out(F.silu(x, inplace=True))
        return (x if vae.quant_conv is None else vae.quant_conv(x)).chunk(2, dim=1)[0]

    levels = (block for level in encoder.down_blocks for block in blocks_of(level, level.downsamplers))
    blocks = [partial(local, encoder.conv_in), *levels, *middle(encoder.mid_block)]
    return chained([*blocks, partial(normed, encoder.conv_norm_out, out)], x)


def chained(blocks: Sequence[Block], x: Tensor) -> Walk:
    """Blocks one after another; nothing holds a block's input when the next one runs."""
    for block in blocks:
        x = yield from block(x)
    return x


def local(run: Callable[[Tensor], Tensor], x: Tensor) -> Walk:
    """An operation without a norm."""
    return (yield Part(run, x))


def normed(norm: nn.GroupNorm, run: Callable[[Tensor], Tensor], x: Tensor) -> Walk:
    """An operation of the normalised map alone."""
    return (yield Part(run, x, norm=norm))


def blocks_of(level: Any, samplers: Any) -> list[Block]:
    """The residual blocks of a level, then another size where there is one."""
    return [*(partial(resnet, block) for block in level.resnets), *(partial(local, each) for each in samplers or ())]


def middle(block: Any) -> list[Block]:
    """Residual block, attention if there is any, residual block."""
    out: list[Block] = [partial(resnet, block.resnets[0])]
    for each, after in zip([*block.attentions, None], block.resnets[1:]):
        out += [*([] if each is None else [partial(attention, each)]), partial(resnet, after)]
    return out


def resnet(block: Any, x: Tensor) -> Walk:
    """shortcut(x) + conv₂ silu norm₂ conv₁ silu norm₁ x."""

    def second(h: Tensor, x: Tensor) -> Tensor:
        h = block.conv2(F.silu(h, inplace=True))
        return h.add_(x if block.conv_shortcut is None else block.conv_shortcut(x))

    h = yield Part(lambda x: block.conv1(F.silu(x, inplace=True)), x, norm=block.norm1)
    return (yield Part(second, h, (x,), norm=block.norm2, last=True))


def attention(block: Any, x: Tensor) -> Walk:
    """x + attention of the normalised map's positions to each other."""

    def attend(normal: Tensor, x: Tensor) -> Tensor:
        tokens = normal.flatten(2).transpose(1, 2)
        q, k, v = (f(tokens)[:, None] for f in (block.to_q, block.to_k, block.to_v))
        seen = block.to_out[0](F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + seen.transpose(1, 2).unflatten(2, x.shape[2:])

    return (yield Part(attend, x, (x,), norm=block.group_norm, local=False))


def moments(norm: nn.GroupNorm, x: Tensor) -> Moments:
    """Mean and biased variance of each group over its channels and all positions, in float32 at least."""
    groups = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, (norm.num_groups, -1)).flatten(2)
    variance, mean = torch.var_mean(groups, dim=2, correction=0)
    return Moments(mean, variance, x.shape[2] * x.shape[3])


def normalised(norm: nn.GroupNorm, x: Tensor, at: Moments) -> Tensor:
    """γ (x − μ)/√(v + ε) + β with given statistics: a new map."""
    each = norm.num_channels // norm.num_groups
    mean, variance = (m.repeat_interleave(each, 1) for m in (at.mean, at.variance))
    slope = (variance + norm.eps).rsqrt() * norm.weight
    slope, offset = slope[..., None, None], (norm.bias - mean * slope)[..., None, None]
    return torch.addcmul(offset, x.to(slope.dtype), slope).to(x.dtype)


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


def ran(part: Part, at: Moments | None) -> Tensor:
    """The result of a part, with these statistics where it has a norm."""
    first = part.first if part.norm is None or at is None else normalised(part.norm, part.first, at)
    return part.run(first, *part.others)


def recorded(walk: Walk) -> Iterator[Moments]:
    """The statistics of every norm of a walk, in order."""
    try:
        part = next(walk)
        while True:
            at = None
            if part.norm is not None:
                at = moments(part.norm, part.first)
                yield at
            part = walk.send(ran(part, at))
    except StopIteration:
        return


def to_norm(walk: Walk, part: Part) -> Part:
    """The first part from here on that has a norm; raises StopIteration with the output after the last one."""
    while part.norm is None:
        part = walk.send(ran(part, None))
    return part


def alone(walk: Walk, statistics: Sequence[Moments]) -> Tensor:
    """The output of a walk whose every norm has given statistics."""
    try:
        part = to_norm(walk, next(walk))
        for at in statistics:
            part = to_norm(walk, walk.send(ran(part, at)))
    except StopIteration as end:
        return end.value
    raise ValueError(f"the network has more than the {len(statistics)} norms that statistics are given for")
