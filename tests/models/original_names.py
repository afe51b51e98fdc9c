"""Names of weights in the layouts that models were published in, next to diffusers' and transformers' names for them.

Written down from the published architectures, block by block: independent of the converters that loading uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

Pairs = Iterator[tuple[str, str]]
Weights = dict[str, Tensor]

LDM, VAE = "model.diffusion_model.", "first_stage_model."
RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
ATTENTION = {name: name for name in ("to_q", "to_k", "to_v", "to_out.0")}
BLOCK = {
    **{f"{a}.{name}": f"{a}.{name}" for a in ("attn1", "attn2") for name in ATTENTION},
    **{name: name for name in ("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2")},
}
VAE_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def within(table: Mapping[str, str], old: str, new: str) -> Pairs:
    """The pairs of a table, inside of a block of these names."""
    return ((f"{old}.{a}", f"{new}.{b}") for a, b in table.items())


def transformer(old: str, new: str, depth: int) -> Pairs:
    """A spatial transformer of a UNet."""
    yield from within({name: name for name in ("norm", "proj_in", "proj_out")}, old, new)
    for d in range(depth):
        yield from within(BLOCK, f"{old}.transformer_blocks.{d}", f"{new}.transformer_blocks.{d}")


def unet(depths: Sequence[int], middle: int, layers: int = 2) -> Pairs:
    """A UNet with this many transformer blocks at each of its levels, 0 = no attention."""
    yield from {
        "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
        "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
        "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
    }.items()  # fmt: skip
    i, last = 1, len(depths) - 1
    for level, depth in enumerate(depths):
        for j in range(layers):
            yield from within(RESNET, f"input_blocks.{i}.0", f"down_blocks.{level}.resnets.{j}")
            if depth:
                yield from transformer(f"input_blocks.{i}.1", f"down_blocks.{level}.attentions.{j}", depth)
            i += 1
        if level < last:
            yield f"input_blocks.{i}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
            i += 1
    yield from within(RESNET, "middle_block.0", "mid_block.resnets.0")
    yield from transformer("middle_block.1", "mid_block.attentions.0", middle)
    yield from within(RESNET, "middle_block.2", "mid_block.resnets.1")
    i = 0
    for level, depth in enumerate(reversed(depths)):
        for j in range(layers + 1):
            yield from within(RESNET, f"output_blocks.{i}.0", f"up_blocks.{level}.resnets.{j}")
            if depth:
                yield from transformer(f"output_blocks.{i}.1", f"up_blocks.{level}.attentions.{j}", depth)
            if j == layers and level < last:
                yield f"output_blocks.{i}.{2 if depth else 1}.conv", f"up_blocks.{level}.upsamplers.0.conv"
            i += 1


def vae(levels: int = 4, layers: int = 2) -> Pairs:
    """An autoencoder."""
    yield from {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}.items()
    for side in ("encoder", "decoder"):
        ends = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
        yield from within(ends, side, side)
        yield from within(VAE_RESNET, f"{side}.mid.block_1", f"{side}.mid_block.resnets.0")
        yield from within(VAE_ATTENTION, f"{side}.mid.attn_1", f"{side}.mid_block.attentions.0")
        yield from within(VAE_RESNET, f"{side}.mid.block_2", f"{side}.mid_block.resnets.1")
    for i in range(levels):
        down, up = f"encoder.down.{i}", f"decoder.up.{levels - 1 - i}"
        yield f"{down}.downsample.conv", f"encoder.down_blocks.{i}.downsamplers.0.conv"
        yield f"{up}.upsample.conv", f"decoder.up_blocks.{i}.upsamplers.0.conv"
        for j in range(layers):
            yield from within(VAE_RESNET, f"{down}.block.{j}", f"encoder.down_blocks.{i}.resnets.{j}")
        for j in range(layers + 1):
            yield from within(VAE_RESNET, f"{up}.block.{j}", f"decoder.up_blocks.{i}.resnets.{j}")


def renamed(module: torch.nn.Module, pairs: Pairs, prefix: str) -> Weights:
    """The weights of a module by their old names, all of them."""
    state, out = module.state_dict(), {}
    for old, new in pairs:
        for kind in ("weight", "bias"):
            if f"{new}.{kind}" in state:
                out[f"{prefix}{old}.{kind}"] = state.pop(f"{new}.{kind}")
    assert not state, f"without an old name: {sorted(state)[:3]}"
    return out


def autoencoder(module: torch.nn.Module, prefix: str = VAE) -> Weights:
    """A VAE's weights; matrices of its attention were convolutions of one place."""
    out = renamed(module, vae(), prefix)
    return {k: v[..., None, None] if ".attn_1." in k and v.ndim == 2 else v for k, v in out.items()}


def clip(module: torch.nn.Module, prefix: str) -> Weights:
    """A text encoder's weights with the names of transformers before its fifth version, and places as it wrote them."""
    state = {k if k.startswith("text_projection") else f"text_model.{k.removeprefix('text_model.')}": v
             for k, v in module.state_dict().items()}  # fmt: skip
    places = torch.arange(state["text_model.embeddings.position_embedding.weight"].shape[0])[None]
    return {prefix + k: v for k, v in state.items()} | {f"{prefix}text_model.embeddings.position_ids": places}


def open_clip(module: torch.nn.Module, prefix: str) -> Weights:
    """A text encoder's weights with the names of OpenCLIP: one matrix for query, key and value, the projection on
    its other side."""
    state = {k.removeprefix("text_model."): v for k, v in module.state_dict().items()}
    out = {
        "token_embedding.weight": state.pop("embeddings.token_embedding.weight"),
        "positional_embedding": state.pop("embeddings.position_embedding.weight"),
        "ln_final.weight": state.pop("final_layer_norm.weight"),
        "ln_final.bias": state.pop("final_layer_norm.bias"),
        "logit_scale": torch.tensor(4.6),
    }
    width = out["token_embedding.weight"].shape[1]
    out["text_projection"] = state.pop("text_projection.weight", out["token_embedding.weight"].new_ones(width, width)).T
    names = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
             "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
    for i in range(sum(k.endswith("mlp.fc1.bias") for k in state)):
        old, new = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
        for kind in ("weight", "bias"):
            qkv = [state.pop(f"{new}.self_attn.{x}_proj.{kind}") for x in "qkv"]
            out[f"{old}.attn.in_proj_{kind}"] = torch.cat(qkv)
            out |= {f"{old}.{b}.{kind}": state.pop(f"{new}.{a}.{kind}") for a, b in names.items()}
    assert not state, f"without an old name: {sorted(state)[:3]}"
    return {prefix + k: v.contiguous() for k, v in out.items()}


def t5(module: torch.nn.Module, prefix: str) -> Weights:
    """The weights of T5's encoder, whose words are in the file once."""
    return {prefix + k: v for k, v in module.state_dict().items() if not k.startswith("encoder.embed_tokens")}


def swapped(value: Tensor) -> Tensor:
    """Shift and scale in the order of the original, scale and shift in diffusers'."""
    return torch.cat(value.chunk(2)[::-1])


class Taken:
    """A module's weights, each of which is taken once."""

    def __init__(self, module: torch.nn.Module):
        self.state = dict(module.state_dict())
        self.out: Weights = {}

    def __call__(self, old: str, *new: str) -> None:
        """A weight and a bias, where there are, under an old name: of one layer, or of several one after another."""
        for kind in ("weight", "bias"):
            if f"{new[0]}.{kind}" in self.state:
                self.out[f"{old}.{kind}"] = torch.cat([self.state.pop(f"{name}.{kind}") for name in new])

    def all(self, prefix: str) -> Weights:
        assert not self.state, f"without an old name: {sorted(self.state)[:3]}"
        return {prefix + name: value for name, value in self.out.items()}


def perceptron(take: Taken, old: str, new: str, first: str, second: str) -> None:
    """Two layers that make a vector for the whole network."""
    take(f"{old}.{first}", f"time_text_embed.{new}.linear_1")
    take(f"{old}.{second}", f"time_text_embed.{new}.linear_2")


def sd3(module: torch.nn.Module, prefix: str = LDM) -> Weights:
    """The weights of Stable Diffusion 3's transformer."""
    take = Taken(module)
    take.out["pos_embed"] = take.state.pop("pos_embed.pos_embed")
    take("x_embedder.proj", "pos_embed.proj")
    perceptron(take, "t_embedder", "timestep_embedder", "mlp.0", "mlp.2")
    perceptron(take, "y_embedder", "text_embedder", "mlp.0", "mlp.2")
    take("context_embedder", "context_embedder")
    take("final_layer.linear", "proj_out")
    take("final_layer.adaLN_modulation.1", "norm_out.linear")
    depth = len(module.transformer_blocks)
    for i in range(depth):
        new = f"transformer_blocks.{i}"
        for attn in ("attn", "attn2"):
            sd3_attention(take, f"joint_blocks.{i}.x_block.{attn}", f"{new}.{attn}", ("to_", ""), "to_out.0", "norm_")
        context = f"joint_blocks.{i}.context_block"
        sd3_attention(take, f"{context}.attn", f"{new}.attn", ("add_", "_proj"), "to_add_out", "norm_added_")
        for old, norm, ff in ((f"joint_blocks.{i}.x_block", "norm1", "ff"), (context, "norm1_context", "ff_context")):
            take(f"{old}.adaLN_modulation.1", f"{new}.{norm}.linear")
            take(f"{old}.mlp.fc1", f"{new}.{ff}.net.0.proj")
            take(f"{old}.mlp.fc2", f"{new}.{ff}.net.2")
    for old in ("final_layer", f"joint_blocks.{depth - 1}.context_block"):
        for kind in ("weight", "bias"):
            name = f"{old}.adaLN_modulation.1.{kind}"
            take.out[name] = swapped(take.out[name])
    return take.all(prefix)


def sd3_attention(take: Taken, old: str, new: str, qkv: tuple[str, str], out: str, norm: str) -> None:
    """One attention: query, key and value are one matrix."""
    take(f"{old}.qkv", *(f"{new}.{qkv[0]}{x}{qkv[1]}" for x in "qkv"))
    take(f"{old}.proj", f"{new}.{out}")
    for x in "qk":
        take(f"{old}.ln_{x}", f"{new}.{norm}{x}")


def flux_joint_block(take: Taken, i: int) -> None:
    """The weights of a block of image and text."""
    for side, qkv, out, norm, tail in (
        ("img", ("to_", ""), "to_out.0", "norm_", ""),
        ("txt", ("add_", "_proj"), "to_add_out", "norm_added_", "_context"),
    ):
        old, new = f"double_blocks.{i}.{side}", f"transformer_blocks.{i}"
        take(f"{old}_mod.lin", f"{new}.norm1{tail}.linear")
        take(f"{old}_attn.qkv", *(f"{new}.attn.{qkv[0]}{x}{qkv[1]}" for x in "qkv"))
        take(f"{old}_attn.proj", f"{new}.attn.{out}")
        take(f"{old}_mlp.0", f"{new}.ff{tail}.net.0.proj")
        take(f"{old}_mlp.2", f"{new}.ff{tail}.net.2")
        scales(take, f"{old}_attn.norm", f"{new}.attn.{norm}")


def flux(module: torch.nn.Module, prefix: str = "") -> Weights:
    """The weights of Flux's transformer."""
    take = Taken(module)
    take("img_in", "x_embedder")
    take("txt_in", "context_embedder")
    for old, new in {
        "time_in": "timestep_embedder",
        "vector_in": "text_embedder",
        "guidance_in": "guidance_embedder",
    }.items():
        perceptron(take, old, new, "in_layer", "out_layer")
    take("final_layer.linear", "proj_out")
    take("final_layer.adaLN_modulation.1", "norm_out.linear")
    for i in range(len(module.transformer_blocks)):
        flux_joint_block(take, i)
    for i in range(len(module.single_transformer_blocks)):
        old, new = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        take(f"{old}.modulation.lin", f"{new}.norm.linear")
        take(f"{old}.linear1", *(f"{new}.attn.to_{x}" for x in "qkv"), f"{new}.proj_mlp")
        take(f"{old}.linear2", f"{new}.proj_out")
        scales(take, f"{old}.norm", f"{new}.attn.norm_")
    for kind in ("weight", "bias"):
        name = f"final_layer.adaLN_modulation.1.{kind}"
        take.out[name] = swapped(take.out[name])
    return take.all(prefix)


def scales(take: Taken, old: str, new: str) -> None:
    """The norms of queries and keys."""
    for word in ("query", "key"):
        take.out[f"{old}.{word}_norm.scale"] = take.state.pop(f"{new}{word[0]}.weight")


def lumina(module: torch.nn.Module, prefix: str = "") -> Weights:
    """The weights of Lumina 2's transformer."""
    take = Taken(module)
    take("x_embedder", "x_embedder")
    take("cap_embedder.0", "time_caption_embed.caption_embedder.0")
    take("cap_embedder.1", "time_caption_embed.caption_embedder.1")
    take("t_embedder.mlp.0", "time_caption_embed.timestep_embedder.linear_1")
    take("t_embedder.mlp.2", "time_caption_embed.timestep_embedder.linear_2")
    take("final_layer.adaLN_modulation.1", "norm_out.linear_1")
    take("final_layer.linear", "norm_out.linear_2")
    for stack in ("noise_refiner", "context_refiner", "layers"):
        for i in range(len(getattr(module, stack))):
            at = f"{stack}.{i}"
            take(f"{at}.attention.qkv", *(f"{at}.attn.to_{x}" for x in "qkv"))
            take(f"{at}.attention.out", f"{at}.attn.to_out.0")
            for x in "qk":
                take(f"{at}.attention.{x}_norm", f"{at}.attn.norm_{x}")
            for n in (1, 2, 3):
                take(f"{at}.feed_forward.w{n}", f"{at}.feed_forward.linear_{n}")
            if stack != "context_refiner":
                take(f"{at}.adaLN_modulation.1", f"{at}.norm1.linear")
            take(f"{at}.attention_norm1", f"{at}.norm1" if stack == "context_refiner" else f"{at}.norm1.norm")
            take(f"{at}.attention_norm2", f"{at}.norm2")
            take(f"{at}.ffn_norm1", f"{at}.ffn_norm1")
            take(f"{at}.ffn_norm2", f"{at}.ffn_norm2")
    return take.all(prefix)


def wan(module: torch.nn.Module, prefix: str = "") -> Weights:
    """The weights of Wan's transformer."""
    take = Taken(module)
    take("patch_embedding", "patch_embedding")
    for old, new in (("text_embedding", "text_embedder"), ("time_embedding", "time_embedder")):
        take(f"{old}.0", f"condition_embedder.{new}.linear_1")
        take(f"{old}.2", f"condition_embedder.{new}.linear_2")
    take("time_projection.1", "condition_embedder.time_proj")
    take("head.head", "proj_out")
    take.out["head.modulation"] = take.state.pop("scale_shift_table")
    for i in range(len(module.blocks)):
        at = f"blocks.{i}"
        take.out[f"{at}.modulation"] = take.state.pop(f"{at}.scale_shift_table")
        for old, new in (("self_attn", "attn1"), ("cross_attn", "attn2")):
            for x in "qkv":
                take(f"{at}.{old}.{x}", f"{at}.{new}.to_{x}")
            take(f"{at}.{old}.o", f"{at}.{new}.to_out.0")
            for x in "qk":
                take(f"{at}.{old}.norm_{x}", f"{at}.{new}.norm_{x}")
        take(f"{at}.norm3", f"{at}.norm2")
        take(f"{at}.ffn.0", f"{at}.ffn.net.0.proj")
        take(f"{at}.ffn.2", f"{at}.ffn.net.2")
    return take.all(prefix)
