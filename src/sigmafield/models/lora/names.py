"""Names of a model's layers, as its class has them, as it was published, and as trainers write them.

What was one layer where the model was published can be several of the class, or the other way round: Flux's `qkv` is
`to_q`, `to_k` and `to_v`. So a name means a list of layers, whose weights lie one below the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from sigmafield.models.lora.tables import SD3, TRANSFORMERS
from sigmafield.models.weights.layers import weights_of

Shape = tuple[int, ...]


class Piece(NamedTuple):
    """A layer that a name means, or one of several.

    Args:
        layer: Its name in the module; of a parameter without a layer, the parameter's.
        swapped: Whether the halves of its rows are the other way round: shift and scale, where the class has scale and
            shift.
    """

    layer: str
    swapped: bool = False


Names = Mapping[str, Sequence[Piece]]
"""The layers that each spelling of a name means."""

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
NUMBER = re.compile(r"\.(\d+)\.")
OF_A_BLOCK = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def shapes_of(module: nn.Module) -> dict[str, Shape]:
    """The shape of each weight, bias and other parameter of a module, by name."""
    return weights_of(module, remove_duplicate=False)


def names_of(parameters: Mapping[str, Shape]) -> Names:
    """All spellings of the layers of a module, with dots and with underscores.

    Args:
        parameters: The shapes of its parameters.
    """
    layers = {re.sub(r"\.(weight|bias)$", "", name) for name in parameters}
    names: dict[str, Sequence[Piece]] = {name: (Piece(name),) for name in layers}
    for old, pieces in published(layers):
        names.setdefault(old, pieces)
    for name, pieces in list(names.items()):
        for other in spellings(name):
            names.setdefault(other, pieces)
    for name, pieces in list(names.items()):
        names.setdefault(name.replace(".", "_"), pieces)
    return names


def spellings(name: str) -> Iterator[str]:
    """Small variations of a name: older versions of diffusers and transformers, and weights that go by `scale`."""
    yield f"text_model.{name}"
    yield name.removeprefix("text_model.")
    if name.endswith("to_out.0"):
        yield name.removesuffix(".0")
    if name.endswith(("query_norm", "key_norm")):
        yield f"{name}.scale"
    if found := re.fullmatch(r"(.+\.self_attn)\.(q|k|v|out)_proj", name):
        yield f"{found[1]}.to_{found[2]}"
        yield f"{found[1]}.to_{found[2]}".removeprefix("text_model.")


def published(layers: set[str]) -> Iterator[tuple[str, Sequence[Piece]]]:
    """The names that the layers had where the model was published."""
    if "conv_in" in layers and "mid_block.resnets.0.conv1" in layers:
        yield from unet(layers)
    table = next((table for layer, table in TRANSFORMERS.items() if layer in layers), {})
    count = 1 + max((int(number) for name in layers for number in NUMBER.findall(name)), default=0)
    if table is SD3:  # the norm of the last block's text is of another kind
        last = max(i for i in range(count) if f"transformer_blocks.{i}.norm1_context.linear" in layers)
        swapped = Piece(f"transformer_blocks.{last}.norm1_context.linear", swapped=True)
        yield f"joint_blocks.{last}.context_block.adaLN_modulation.1", (swapped,)
    for old, new in table.items():
        for i in map(str, range(count)) if "#" in old else [""]:
            pieces = pieces_of(new.replace("#", i))
            if all(piece.layer in layers for piece in pieces):
                yield old.replace("#", i), pieces


def pieces_of(text: str) -> Sequence[Piece]:
    """The layers in an entry of a table."""
    stem, colon, tails = text.partition(": ")
    if colon:
        return tuple(Piece(f"{stem}.{tail}") for tail in tails.split(" "))
    return (Piece(text.removeprefix("~"), swapped=text.startswith("~")),)


def unet(layers: set[str]) -> Iterator[tuple[str, Sequence[Piece]]]:
    """The names of a UNet's layers in Stable Diffusion's files, whose blocks are counted through."""
    sizes: dict[tuple[str, int], int] = {}
    for name in layers:
        if (found := OF_A_BLOCK.fullmatch(name)) and found[3] == "resnets":
            key = (found[1], int(found[2]))
            sizes[key] = max(sizes.get(key, 0), int(found[4]) + 1)
    for name in layers:
        if name in UNET:
            yield UNET[name], (Piece(name),)
        elif name.startswith("mid_block."):
            _, kind, number, rest = name.split(".", 3)
            at = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}"
            yield f"{at}.{RESNET.get(rest, rest)}", (Piece(name),)
        elif found := OF_A_BLOCK.fullmatch(name):
            yield of_block(found, sizes, layers), (Piece(name),)


def of_block(found: re.Match[str], sizes: Mapping[tuple[str, int], int], layers: set[str]) -> str:
    """The name of a layer of one of a UNet's blocks.

    Args:
        found: The parts of its name.
        sizes: How many resnets each block has.
        layers: All layers.
    """
    side, level, kind, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    down = side == "down_blocks"
    before = sum(sizes[side, i] + down for i in range(level))  # downsamplers are blocks of their own
    size = sizes[side, level]
    if kind == "downsamplers":
        return f"input_blocks.{1 + before + size}.0.op"
    if kind == "upsamplers":
        attends = any(name.startswith(f"{side}.{level}.attentions.") for name in layers)
        return f"output_blocks.{before + size - 1}.{2 if attends else 1}.conv"
    block = f"input_blocks.{1 + before + number}" if down else f"output_blocks.{before + number}"
    return f"{block}.0.{RESNET.get(rest, rest)}" if kind == "resnets" else f"{block}.1.{rest}"
