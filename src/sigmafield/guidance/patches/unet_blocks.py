"""The blocks of a UNet in the numbering of the original code: inputs on the way down, outputs on the way up.

Input block 0 is the first convolution; then each level has its residual blocks, each with its transformer if there is
one, and its downsampler. Each leaves a skip, and output block n takes the skip of input block −1 − n, counted from the
end. Ronneberger et al., arXiv:1505.04597; numbers as in Stable Diffusion's openaimodel.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from sigmafield.guidance.patches.module_hooks import Change, after, before


def unet(module: nn.Module) -> Any:
    """The module, if it is a UNet with attention in its middle: diffusers' or the shipped one."""
    if not getattr(getattr(module, "mid_block", None), "attentions", None):
        raise ValueError(f"{type(module).__name__} is not a UNet with attention in its middle")
    return module


def middle_blocks(module: nn.Module) -> list[Any]:
    """Every transformer block in the middle of a UNet."""
    return [block for part in unet(module).mid_block.attentions for block in part.transformer_blocks]


def middle_attentions(module: nn.Module) -> list[nn.Module]:
    """The self-attention of every transformer block in the middle of a UNet."""
    return [block.attn1 for block in middle_blocks(module)]


class Block(NamedTuple):
    """A block: the module that takes its input, and the one that gives its output, which may be the same."""

    first: Any
    last: Any


def inputs(module: nn.Module) -> list[Block]:
    """The input blocks of a UNet; ValueError for another network."""
    blocks = [Block(unet(module).conv_in, module.conv_in)]
    for level in unet(module).down_blocks:
        blocks += [Block(resnet, _after(level, j)) for j, resnet in enumerate(level.resnets)]
        blocks += [Block(down, down) for down in level.downsamplers or ()]
    return blocks


def outputs(module: nn.Module) -> list[Block]:
    """The output blocks of a UNet, whose first modules take [h, skip], joined; ValueError for another network."""
    blocks = []
    for level in unet(module).up_blocks:
        lasts = [_after(level, j) for j in range(len(level.resnets))]
        lasts[-1:] = level.upsamplers or lasts[-1:]
        blocks += map(Block, level.resnets, lasts)
    return blocks


def meetings(module: nn.Module) -> list[tuple[nn.Module, int]]:
    """(first module, channels of h) of each output block: where h, from below, has been joined with a skip."""
    blocks = outputs(module)
    below = [unet(module).mid_block.resnets[-1], *(block.first for block in blocks[:-1])]
    return [(block.first, resnet.conv2.out_channels) for block, resnet in zip(blocks, below)]


def arrivals(module: nn.Module) -> list[Callable[[Callable[[Tensor], Tensor]], Change]]:
    """For each output block, what makes a hook of a change of h before it is joined with a skip.

    The first takes h from the middle, with what controls have added there; another from the block below.
    """
    return [
        partial(_entering, unet(module).up_blocks[0]),
        *(partial(_leaving, block.last) for block in outputs(module)[:-1]),
    ]


def _entering(level: nn.Module, change: Callable[[Tensor], Tensor]) -> Change:
    def hook(part: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return partial(before, level, hook)


def _leaving(block: nn.Module, change: Callable[[Tensor], Tensor]) -> Change:
    return partial(after, block, lambda part, args, kwargs, output: mapped(output, change))


def attentions(module: nn.Module, name: str) -> list[tuple[int, Any]]:
    """(depth, attention) of every transformer block of a UNet, from first to last.

    Args:
        module: A UNet.
        name: attn1, to itself, or attn2, to the text.

    Returns:
        depth: how often the sides of the attention's map have been halved.
    """
    downs, ups = unet(module).down_blocks, unet(module).up_blocks
    n = len(downs)
    levels = [*enumerate(downs), (n - 1, unet(module).mid_block), *((n - 1 - i, up) for i, up in enumerate(ups))]
    return [
        (depth, getattr(block, name))
        for depth, level in levels
        for part in getattr(level, "attentions", ())
        for block in getattr(part, "transformer_blocks", ())
        if getattr(block, name, None) is not None
    ]


def mapped(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A module's output with its feature map changed: diffusers' transformers return it in a tuple."""
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)


def _after(level: Any, j: int) -> nn.Module:
    """The last module of residual block j of a level: its transformer, or itself."""
    attentions = getattr(level, "attentions", None)
    return attentions[j] if attentions else level.resnets[j]
