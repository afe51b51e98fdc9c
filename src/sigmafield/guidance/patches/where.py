"""Which parts of a network patches act on, by the names that diffusers gives them; ValueError where it has none."""

from __future__ import annotations

from typing import Any

from torch import nn


def unet(module: nn.Module) -> Any:
    """The module, if it is a UNet with attention in its middle: diffusers' or the shipped one."""
    if not getattr(getattr(module, "mid_block", None), "attentions", None):
        raise ValueError(f"{type(module).__name__} is no UNet with attention in its middle")
    return module


def middle_blocks(module: nn.Module) -> list[Any]:
    """Every transformer block in the middle of a UNet."""
    return [block for part in unet(module).mid_block.attentions for block in part.transformer_blocks]


def middle_attentions(module: nn.Module) -> list[nn.Module]:
    """The self-attention of every transformer block in the middle of a UNet."""
    return [block.attn1 for block in middle_blocks(module)]
