"""Weights of side networks with the names they were published under → with those of diffusers' classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from torch import Tensor

from sigmafield.models.single_file.convert import left_over
from sigmafield.models.single_file.layouts import count

Weights = dict[str, Tensor]


def ldm(tensors: Weights) -> Weights:
    """A ControlNet in the words of lllyasviel's files, by diffusers' converter, and SDXL's further inputs."""
    downs = [i for i in range(1, 99) if f"input_blocks.{i}.0.op.weight" in tensors]
    found = convert_controlnet_checkpoint(dict(tensors), {"layers_per_block": downs[0] - 1 if downs else 2})
    out = {name: value for name, value in found.items() if value is not None}
    for old, new in (("label_emb.0.0", "add_embedding.linear_1"), ("label_emb.0.2", "add_embedding.linear_2")):
        out |= {f"{new}.{kind}": tensors[f"{old}.{kind}"] for kind in ("weight", "bias") if f"{old}.{kind}" in tensors}
    placed = {id(value) for value in out.values()}
    left_over([name for name, value in tensors.items() if id(value) not in placed])
    return out


def adapter(tensors: Weights) -> Weights:
    """A T2I-Adapter as published: its blocks are one list; a level begins where a block has other channels.

    A light one's blocks are its levels already.
    """
    own = {name.removeprefix("adapter."): value for name, value in tensors.items()}
    if "body.0.out_conv.weight" in own:
        return {f"adapter.{name.replace('.body.', '.resnets.')}": value for name, value in own.items()}
    blocks = count({name: tuple(value.shape) for name, value in own.items()}, "body.{}.block1.weight")
    if not blocks:
        raise KeyError("body.0.block1.weight")
    each = next((i for i in range(1, blocks) if f"body.{i}.in_conv.weight" in own), blocks)
    out: Weights = {}
    for name, value in own.items():
        body, _, rest = name.partition(".")
        number, _, layer = rest.partition(".")
        if body == "body" and number.isdecimal():
            level, block = divmod(int(number), each)
            name = f"body.{level}.{layer}" if layer.startswith("in_conv.") else f"body.{level}.resnets.{block}.{layer}"
        out[f"adapter.{name}"] = value
    return out


XLABS = {
    "img_in": "x_embedder", "txt_in": "context_embedder", "pos_embed_input": "controlnet_x_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "input_hint_block.0": "input_hint_block.conv_in", "input_hint_block.14": "input_hint_block.conv_out",
    **{f"input_hint_block.{2 * i + 2}": f"input_hint_block.blocks.{i}" for i in range(6)},
}  # fmt: skip
JOINT = {
    "img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear",
    "img_attn.proj": "attn.to_out.0", "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj", "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj", "txt_mlp.2": "ff_context.net.2",
    "img_attn.norm.query_norm": "attn.norm_q", "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q", "txt_attn.norm.key_norm": "attn.norm_added_k",
}  # fmt: skip
JOINT_QKV = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}


def xlabs(tensors: Weights) -> Weights:
    """A ControlNet of Flux in XLabs' words, which are Flux's own."""
    return renamed(tensors, XLABS, "double_blocks.", JOINT, JOINT_QKV)


STABILITY = {
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
}
SINGLE = {
    "adaLN_modulation.1": "norm1.linear", "attn.proj": "attn.to_out.0",
    "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2",
}  # fmt: skip


def stability(tensors: Weights) -> Weights:
    """A ControlNet of Stable Diffusion 3.5 large in Stability's words; what its image shows is not a weight."""
    own = {name: value for name, value in tensors.items() if name != "control_type"}
    qkv = {"attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v")}
    return renamed(own, STABILITY, "transformer_blocks.", SINGLE, qkv)


def renamed(
    tensors: Weights,
    layers: Mapping[str, str],
    blocks: str,
    inner: Mapping[str, str],
    fused: Mapping[str, tuple[str, ...]],
) -> Weights:
    """Renames the layers of a transformer, and cuts those that hold query, key and value.

    Args:
        tensors: The weights.
        layers: New names of layers outside of blocks.
        blocks: What the names of its blocks begin with, before their number.
        inner: New names of layers within a block.
        fused: New names of the equal parts that a layer within a block is cut into.
    """
    out: Weights = {}
    for name, value in tensors.items():
        layer, _, kind = name.rpartition(".")
        kind = "weight" if kind == "scale" else kind
        if not name.startswith(blocks):
            out[f"{layers.get(layer, layer)}.{kind}" if layer else name] = value
            continue
        number, _, layer = layer.removeprefix(blocks).partition(".")
        parts = fused.get(layer, (inner.get(layer, layer),))
        for part, piece in zip(parts, value.chunk(len(parts))):
            out[f"transformer_blocks.{number}.{part}.{kind}"] = piece
    return out


def unchanged(tensors: Weights) -> Weights:
    """Weights that have diffusers' names."""
    return tensors


def z_image(tensors: Weights) -> Weights:
    """A ControlNet of Z-Image, without the layers of 2.0 that are in its file and not used."""
    used = "control_noise_refiner.0.after_proj.weight" in tensors
    first = tensors["control_all_x_embedder.2-1.weight"].shape[1] == 64
    if used or first:
        return tensors
    return {name: value for name, value in tensors.items() if not name.startswith("control_noise_refiner.")}


RENAMED: dict[str, Callable[[Weights], Weights]] = {
    "diffusers": unchanged, "ldm": ldm, "adapter": adapter, "xlabs": xlabs, "stability": stability,
    "z_image": z_image,
}  # fmt: skip
"""How weights are renamed, by whose words their names are in."""
