"""Blocks of a network by family: where they are, what they return, and which of their tokens are the image's."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigmafield.core.conditioning import Cond
from sigmafield.guidance.patches.unet_blocks import middle_blocks


@dataclass(frozen=True)
class Kind:
    """Blocks of one kind. name: the module's list of them; pair: they return (text, image), not one stream."""

    name: str
    pair: bool = False


@dataclass(frozen=True)
class Family:
    """A transformer's blocks, double-stream ones first. text_first: where a sequence has both, the text comes first."""

    double: Kind | None = None
    single: Kind | None = None
    text_first: bool = True


FAMILIES = {
    "SD3Transformer2DModel": Family(Kind("transformer_blocks", pair=True), text_first=False),
    "FluxTransformer2DModel": Family(
        Kind("transformer_blocks", pair=True), Kind("single_transformer_blocks", pair=True)
    ),
    "AuraFlowTransformer2DModel": Family(
        Kind("joint_transformer_blocks", pair=True), Kind("single_transformer_blocks")
    ),
    "Lumina2Transformer2DModel": Family(single=Kind("layers")),
    "WanTransformer3DModel": Family(double=Kind("blocks")),
}


def transformer(module: nn.Module) -> Family:
    """The family of a transformer; ValueError for another module."""
    name = type(module).__name__
    if name not in FAMILIES:
        raise ValueError(f"{name} is not one of the transformers {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]


def of_kind(module: nn.Module, kind: Kind | None) -> list[Any]:
    """The blocks of a kind; an empty list where the family does not have it."""
    return list(getattr(module, kind.name)) if kind else []


def blocks(module: nn.Module) -> list[Any]:
    """A transformer's blocks in order, double-stream ones first; of a UNet those in its middle."""
    if type(module).__name__ in FAMILIES:
        family = transformer(module)
        return of_kind(module, family.double) + of_kind(module, family.single)
    try:
        return middle_blocks(module)
    except ValueError as error:
        raise ValueError(f"{error}, nor one of the transformers {', '.join(sorted(FAMILIES))}") from None


def numbers(text: str) -> list[int]:
    """Every run of digits in a text, "7, 8, 9", as ComfyUI reads lists of layers."""
    return [int(digits) for digits in re.findall(r"\d+", text)]


def self_attentions(module: nn.Module, *, layers: str = "") -> list[nn.Module]:
    """The self-attention of some blocks.

    Args:
        module: A UNet or a transformer.
        layers: Numbers of blocks; "" for all in a UNet's middle, or a transformer's middle block.

    Raises:
        ValueError: No block has such a number, or the text has no numbers.
    """
    there, chosen = blocks(module), numbers(layers)
    if layers.strip() and not chosen:
        raise ValueError(f"layers must be numbers of blocks, such as '7, 8, 9'; got {layers!r}")
    if any(number >= len(there) for number in chosen):
        where = f"{type(module).__name__} has blocks 0 to {len(there) - 1} to choose from"
        raise ValueError(f"{where}; got layers = {layers!r}")
    if not chosen:
        chosen = [len(there) // 2] if type(module).__name__ in FAMILIES else range(len(there))
    return [attention for number in dict.fromkeys(chosen) for attention in _of(there[number])]


def every_self_attention(module: nn.Module) -> list[nn.Module]:
    """The self-attention of every block of a transformer, or of a UNet at all its levels."""
    if type(module).__name__ in FAMILIES:
        return [attention for block in blocks(module) for attention in _of(block)]
    middle_blocks(module)  # raises for what is not a UNet
    parts: list[Any] = [part for part in module.modules() if hasattr(part, "attn1")]
    return [part.attn1 for part in parts]


def _of(block: Any) -> list[nn.Module]:
    """attn1, or attn with SD 3.5's second one, of the image alone; an attn2 next to attn1 attends to the text."""
    if hasattr(block, "attn1"):
        return [block.attn1]
    second = getattr(block, "attn2", None)
    return [block.attn] if second is None else [block.attn, second]


@dataclass(frozen=True)
class ImageTokens:
    """Which tokens of a call are the image's: in a UNet all of them.

    They follow row by row, frame by frame. x, cond: what the network is given.
    """

    module: nn.Module
    x: Tensor
    cond: Cond

    def grid(self, n: int) -> tuple[int, ...]:
        """(frames,) rows and columns of n tokens."""
        if type(self.module).__name__ in FAMILIES:
            return self._sides
        return nearest_grid(n, self.x.shape[-2:])

    def positions(self, length: int) -> Tensor:
        """Where in a sequence of this length they are: [1 or rows, n]."""
        if type(self.module).__name__ not in FAMILIES:
            return torch.arange(length, device=self.x.device)[None]
        n = math.prod(self._sides)
        at = torch.arange(n, device=self.x.device)[None]
        if length == n:
            return at
        mask = self.cond.extra.get("encoder_attention_mask")
        if mask is not None:  # each row's image follows its own text, and the padding is at the end
            return mask.sum(1, keepdim=True).to(at) + at
        return at + (length - n if transformer(self.module).text_first else 0)

    @property
    def _sides(self) -> tuple[int, ...]:
        """Tokens along each axis; a network with more channels than the latent is given a folded one, as Flux is."""
        config: Any = self.module.config
        fold = math.isqrt(config.in_channels // self.x.shape[1])
        size = config.patch_size
        sizes = [size] * (self.x.ndim - 2) if isinstance(size, int) else size
        sides = self.x.shape[2:]  # of images, for a network of videos too, the last two
        return tuple(side // (patch * fold) for side, patch in zip(sides, sizes[-len(sides) :]))


def nearest_grid(n: int, sides: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of n tokens for a latent with these sides: the pair whose proportions are nearest."""
    high, wide = sides
    divisors = [k for k in range(1, n + 1) if n % k == 0]
    rows = min(divisors, key=lambda k: abs(math.log(k * k / n * wide / high)))
    return rows, n // rows
