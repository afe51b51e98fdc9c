"""Configs of a model's parts as far as the shapes of its weights tell them, in diffusers' and transformers' words.

What shapes do not tell (numbers of heads, activations, scales of latents) is in the configs that are shipped.
"""

from __future__ import annotations

import math
from typing import Any

from sigmafield.models.single_file import recent_shapes as recent
from sigmafield.models.single_file.layouts import Layout, Shapes, count

T5_ALONE = ("chroma", "wan", "wan_fun", "wan_vace", "ltxv")
"""Families with one text encoder, T5 or UMT5."""


def derived(layout: Layout, shapes: Shapes) -> dict[str, dict[str, Any]]:
    """Entries of the config of each part that is in a file, read off the shapes of the file's weights.

    Raises ValueError naming the part where a weight is missing that says how wide or deep the part is.
    """
    configs: dict[str, dict[str, Any]] = {}
    for part in layout.prefixes:
        try:
            configs[part] = reader(layout.family, part)(layout.of(part, shapes))
        except KeyError as error:
            raise ValueError(f"{part}: weight {layout.prefixes[part]}{error.args[0]} is missing") from None
    return configs


def reader(family: str, part: str) -> Any:
    """The function that reads the config of a part off its shapes."""
    if part in ("unet", "vae"):
        return {"unet": unet, "vae": recent.VAES.get(family, vae)}[part]
    if part == "transformer":
        return {"sd3": sd3, "flux": flux, **recent.TRANSFORMERS}[family]
    if part == "text_encoder_4":
        return recent.language
    if family in recent.ENCODERS:
        return recent.ENCODERS[family]
    if part == "text_encoder_3" or family in T5_ALONE or (family, part) == ("flux", "text_encoder_2"):
        return t5
    return any_clip


def unet(s: Shapes) -> dict[str, Any]:
    """A UNet: widths of its levels, transformers in each, its further inputs."""
    widths, depths, blocks = [s["input_blocks.0.0.weight"][0]], [], []
    i = 1
    while f"input_blocks.{i}.0.op.weight" in s or f"input_blocks.{i}.0.in_layers.2.weight" in s:
        if f"input_blocks.{i}.0.op.weight" in s:
            widths.append(0)
        else:
            widths[-1] = s[f"input_blocks.{i}.0.in_layers.2.weight"][0]
            depths.append(count(s, f"input_blocks.{i}.1.transformer_blocks.{{}}.norm1.weight"))
            blocks.append(len(widths))
        i += 1
    layers = blocks.count(1)
    depths = depths[::layers]
    middle = count(s, "middle_block.1.transformer_blocks.{}.norm1.weight")
    linear = len(s["middle_block.1.proj_in.weight"]) == 2
    config = {
        "in_channels": s["input_blocks.0.0.weight"][1],
        "out_channels": s["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in reversed(depths)],
        "transformer_layers_per_block": [*(d or 1 for d in depths[:-1]), depths[-1] or middle],
        "cross_attention_dim": s["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        "use_linear_projection": linear,
    }
    if linear:  # since Stable Diffusion 2 a head is 64 wide; before, there were eight
        config["attention_head_dim"] = [max(width // 64, 1) for width in widths]
    return config | extra_inputs(s, xl=depths[0] == 0)


def extra_inputs(s: Shapes, xl: bool) -> dict[str, Any]:
    """Inputs of a UNet other than latent, time and text: a vector, which in SDXL has sizes in it, or a class."""
    if "label_emb.weight" in s:
        return {"num_class_embeds": s["label_emb.weight"][0]}
    if "label_emb.0.0.weight" not in s:
        return {}
    width = {"projection_class_embeddings_input_dim": s["label_emb.0.0.weight"][1]}
    return width | ({"addition_embed_type": "text_time"} if xl else {"class_embed_type": "projection"})


def vae(s: Shapes) -> dict[str, Any]:
    """An autoencoder: widths of its levels, channels of its latents. Read off the decoder, as some have no encoder."""
    levels = count(s, "decoder.up.{}.block.0.conv1.weight")
    return {
        "latent_channels": s["decoder.conv_in.weight"][1],
        "block_out_channels": [s[f"decoder.up.{i}.block.0.conv1.weight"][0] for i in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": count(s, "decoder.up.0.block.{}.conv1.weight") - 1,
        "use_quant_conv": "quant_conv.weight" in s,
        "use_post_quant_conv": "post_quant_conv.weight" in s,
    }


def any_clip(s: Shapes) -> dict[str, Any]:
    """CLIP's text encoder with the names of OpenCLIP or of transformers."""
    return open_clip(s) if "positional_embedding" in s else clip(s)


def clip(s: Shapes) -> dict[str, Any]:
    """CLIP's text encoder with the names of transformers."""
    s = {name.removeprefix("text_model."): shape for name, shape in s.items()}  # some files leave it out
    vocabulary, width = s["embeddings.token_embedding.weight"]
    return clip_config(
        vocabulary,
        width,
        s["embeddings.position_embedding.weight"][0],
        s["encoder.layers.0.mlp.fc1.weight"][0],
        count(s, "encoder.layers.{}.mlp.fc1.weight"),
        s.get("text_projection.weight", (width, width))[0],
    )


def open_clip(s: Shapes) -> dict[str, Any]:
    """CLIP's text encoder with the names of OpenCLIP. Without the last of 24 layers, as Stable Diffusion 2 has it."""
    vocabulary, width = s["token_embedding.weight"]
    layers = count(s, "transformer.resblocks.{}.mlp.c_fc.weight")
    return clip_config(
        vocabulary,
        width,
        s["positional_embedding"][0],
        s["transformer.resblocks.0.mlp.c_fc.weight"][0],
        23 if layers == 24 else layers,
        s.get("text_projection", (width, width))[1],
    )


def clip_config(vocabulary: int, width: int, length: int, inner: int, layers: int, projection: int) -> dict[str, Any]:
    """A text encoder of CLIP, whose heads are all 64 wide."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "max_position_embeddings": length,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": max(width // 64, 1),
        "projection_dim": projection,
    }


def t5(s: Shapes) -> dict[str, Any]:
    """T5's encoder, whose heads are 64 wide."""
    inner = s["encoder.block.0.layer.0.SelfAttention.q.weight"][0]
    heads = s["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"][1]
    return {
        "vocab_size": s["shared.weight"][0],
        "d_model": s["shared.weight"][1],
        "d_kv": inner // heads,
        "num_heads": heads,
        "d_ff": s["encoder.block.0.layer.1.DenseReluDense.wo.weight"][1],
        "num_layers": count(s, "encoder.block.{}.layer.0.SelfAttention.q.weight"),
    }


def sd3(s: Shapes) -> dict[str, Any]:
    """The transformer of Stable Diffusion 3, whose heads are 64 wide."""
    width = s["x_embedder.proj.weight"][0]
    layers = count(s, "joint_blocks.{}.x_block.attn.qkv.weight")
    patch = s["x_embedder.proj.weight"][2]
    return {
        "patch_size": patch,
        "in_channels": s["x_embedder.proj.weight"][1],
        "out_channels": s["final_layer.linear.weight"][0] // patch**2,
        "num_layers": layers,
        "num_attention_heads": width // 64,
        "joint_attention_dim": s["context_embedder.weight"][1],
        "caption_projection_dim": width,
        "pooled_projection_dim": s["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": math.isqrt(s["pos_embed"][1]),
        "dual_attention_layers": [i for i in range(layers) if f"joint_blocks.{i}.x_block.attn2.qkv.weight" in s],
        "qk_norm": "rms_norm" if "joint_blocks.0.x_block.attn.ln_q.weight" in s else None,
    }


def flux(s: Shapes) -> dict[str, Any]:
    """The transformer of Flux; a head is as wide as the norm of its keys, and its rotation shared out 2 : 7 : 7."""
    width, channels = s["img_in.weight"]
    head = s["double_blocks.0.img_attn.norm.key_norm.scale"][0]
    return {
        "in_channels": channels,
        "out_channels": s["final_layer.linear.weight"][0],
        "num_layers": count(s, "double_blocks.{}.img_attn.qkv.weight"),
        "num_single_layers": count(s, "single_blocks.{}.linear1.weight"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "axes_dims_rope": [head // 8, head * 7 // 16, head * 7 // 16],
        "joint_attention_dim": s["txt_in.weight"][1],
        "pooled_projection_dim": s["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in s,
    }
