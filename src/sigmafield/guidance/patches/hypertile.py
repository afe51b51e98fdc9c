"""HyperTile: self-attention within tiles of the image, for less work on large ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from sigmafield.core.conditioning import Cond
from sigmafield.core.parameters import Range
from sigmafield.core.protocols import Call, Network
from sigmafield.guidance.patches.module_hooks import during, inside
from sigmafield.guidance.patches.unet_blocks import attentions
from sigmafield.guidance.registry import mod
from sigmafield.noise.sources import generator_of

Keys = Literal["strip", "tile"]


def reaches(module: nn.Module, *, max_depth: int) -> None:
    """Raises ValueError for a network without self-attention down to that depth."""
    depths = [depth for depth, _ in attentions(module, "attn1")]
    if min(depths) > max_depth:
        raise ValueError(
            f"hypertile finds no self-attention at a depth of max_depth={max_depth} or less in this "
            f"{type(module).__name__}: its own begins at max_depth={min(depths)}"
        )


@mod("hypertile", "network", "ComfyUI (HyperTile)", fits=reaches)
def hypertile(
    network: Network,
    call: Call,
    *,
    tile_size: Annotated[int, Range(1, 2048)] = 256,
    swap_size: Annotated[int, Range(1, 128)] = 2,
    max_depth: Annotated[int, Range(0, 10)] = 0,
    scale_depth: bool = False,
    keys: Keys = "strip",
) -> Network:
    """HyperTile: the tokens of self-attention are cut into T tiles, and a token attends to N/T tokens instead of all N.

    A side of v tokens is cut into v/d parts, d one of the swap_size smallest divisors of v that are at least
    max(32, tile_size)//8. Divisors are drawn again in every attention layer and every step, seeded by the numbers of
    both alone. Maps whose sides are not a halved latent's without remainder are left alone.

    Args:
        network: The network.
        call: The call of it.
        tile_size: Least side of a tile in pixels, at 8 for each latent position.
        swap_size: How many divisors there are to draw from.
        max_depth: How often the sides of a map may have been halved.
        scale_depth: Whether tiles are twice as large, in tokens, for each halving of the map.
        keys: strip, tile j of the queries attends to the j-th N/T tokens of the raster, tiles are cut as if height and
            width were exchanged, and the largest divisor is never drawn, as in ComfyUI; tile, a token attends to the
            tokens of its own tile.
    """
    modules = [module for _, module in attentions(call.module, "attn1")]
    least, step = max(32, tile_size) // 8, call.ctx.span.i

    def tiled(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        height, width = x.shape[-2:]

        def attend(q: Tensor, k: Tensor, v: Tensor, attention: Callable[..., Tensor], layer: int) -> Tensor:
            n = q.shape[2]
            depth = next((i for i in range(max_depth + 1) if n * 4**i == height * width), 0)
            sides = (height >> depth, width >> depth)
            if n != sides[0] * sides[1] or n != k.shape[2]:
                return attention(q, k, v)
            grid = sides if keys == "tile" else (sides[1], sides[0])
            draw = generator_of((step << 16) + layer)
            parts = [_parts(n, least << depth if scale_depth else least, swap_size, keys, draw) for n in grid]
            if parts == [1, 1]:
                return attention(q, k, v)
            cut = partial(_cut, grid=grid, parts=parts)
            seen = cut if keys == "tile" else partial(_strips, parts=parts)
            return _joined(attention(cut(q), seen(k), seen(v)), grid, parts)

        attending = [partial(inside, module, partial(attend, layer=j)) for j, module in enumerate(modules)]
        return during(network, attending)(x, t, cond)

    return tiled


def _parts(n: int, least: int, swap_size: int, keys: Keys, draw: torch.Generator) -> int:
    """How many parts a side of n tokens is cut into."""
    divisors = [d for d in range(min(least, n), n + 1) if n % d == 0][:swap_size]
    choices = max(1, len(divisors) - (keys == "strip"))
    return n // divisors[int(torch.randint(choices, (), generator=draw))]


def _cut(tokens: Tensor, grid: tuple[int, int], parts: list[int]) -> Tensor:
    """[B, heads, N, C] of a grid → [B T, heads, N/T, C], one row per tile."""
    shape = [m for n, each in zip(grid, parts) for m in (each, n // each)]
    tiles = tokens.unflatten(2, shape).permute(0, 2, 4, 1, 3, 5, 6)
    return tiles.flatten(4, 5).flatten(0, 2)


def _strips(tokens: Tensor, parts: list[int]) -> Tensor:
    """[B, heads, N, C] → [B T, heads, N/T, C], one row per stretch of consecutive tokens."""
    return tokens.unflatten(2, (parts[0] * parts[1], -1)).transpose(1, 2).flatten(0, 1)


def _joined(tiles: Tensor, grid: tuple[int, int], parts: list[int]) -> Tensor:
    """The inverse of `_cut`."""
    tokens = tiles.unflatten(2, [n // each for n, each in zip(grid, parts)]).unflatten(0, (-1, *parts))
    return tokens.permute(0, 3, 1, 4, 2, 5, 6).flatten(2, 5)
