"""Configs of transformers that denoise, as far as the shapes of their weights tell them; a function per family."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt, prod
from typing import Any

from sigmafield.models.single_file.layouts import Shapes, count


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
        "pos_embed_max_size": isqrt(s["pos_embed"][1]),
        "dual_attention_layers": [i for i in range(layers) if f"joint_blocks.{i}.x_block.attn2.qkv.weight" in s],
        "qk_norm": "rms_norm" if "joint_blocks.0.x_block.attn.ln_q.weight" in s else None,
    }


def qwen(s: Shapes) -> dict[str, Any]:
    """The transformer of Qwen-Image, whose names are diffusers'; a head's rotation is shared out 2 : 7 : 7."""
    width, channels = s["img_in.weight"]
    head = s["transformer_blocks.0.attn.norm_q.weight"][0]
    return {
        "in_channels": channels,
        "out_channels": s["proj_out.weight"][0] // 4,
        "num_layers": count(s, "transformer_blocks.{}.img_mod.1.weight"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": s["txt_in.weight"][1],
        "axes_dims_rope": [head // 8, head * 7 // 16, head * 7 // 16],
    }


def qwen21(s: Shapes) -> dict[str, Any]:
    """The transformer of Qwen-Image 2.1."""
    width, channels = s["img_in.weight"]
    head = s["transformer_blocks.0.attn.norm_q.weight"][0]
    return {
        "in_channels": channels,
        "out_channels": s["proj_out.weight"][0],
        "num_layers": count(s, "transformer_blocks.{}.attn.to_q.weight"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "context_in_dim": s["txt_in.in_layer.weight"][1],
        "mlp_ratio": s["transformer_blocks.0.img_mlp.out.weight"][1] // width,
        "axes_dims_rope": [head // 8, head * 7 // 16, head * 7 // 16],
    }


def hidream(s: Shapes) -> dict[str, Any]:
    """The transformer of HiDream, whose heads are 128 wide; each block reads a layer of Llama, or the last one."""
    width, channels = s["x_embedder.proj.weight"]
    layers = count(s, "double_stream_blocks.{}.block.adaLN_modulation.1.weight")
    singles = count(s, "single_stream_blocks.{}.block.adaLN_modulation.1.weight")
    head = min(width, 128)
    return {
        "in_channels": channels // 4,
        "out_channels": s["final_layer.linear.weight"][0] // 4,
        "num_layers": layers,
        "num_single_layers": singles,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "caption_channels": [
            s[f"caption_projection.{layers + singles}.linear.weight"][1], s["caption_projection.0.linear.weight"][1]
        ],
        "text_emb_dim": s["p_embedder.pooled_embedder.linear_1.weight"][1],
        "num_routed_experts": s["double_stream_blocks.0.block.ff_i.gate.weight"][0],
        "axes_dims_rope": [head // 2, head // 4, head // 4],
        "llama_layers": [min(k, 31) for k in range(layers + singles)],
    }  # fmt: skip


def z_image(s: Shapes) -> dict[str, Any]:
    """The transformer of Z-Image; a head's rotation is shared out 2 : 3 : 3."""
    width, tokens = s["x_embedder.weight"]
    head = s["layers.0.attention.q_norm.weight"][0]
    return {
        "dim": width,
        "in_channels": tokens // 4,
        "n_layers": count(s, "layers.{}.attention.qkv.weight"),
        "n_refiner_layers": count(s, "noise_refiner.{}.attention.qkv.weight"),
        "n_heads": width // head,
        "n_kv_heads": width // head,
        "cap_feat_dim": s["cap_embedder.1.weight"][1],
        "axes_dims": [head // 4, head * 3 // 8, head * 3 // 8],
    }


def double_and_single(s: Shapes) -> dict[str, Any]:
    """What the transformers of Flux, Flux 2 and Chroma have in common; a head is as wide as the norm of its keys."""
    width, channels = s["img_in.weight"]
    head = s["double_blocks.0.img_attn.norm.key_norm.scale"][0]
    return {
        "in_channels": channels,
        "num_layers": count(s, "double_blocks.{}.img_attn.qkv.weight"),
        "num_single_layers": count(s, "single_blocks.{}.linear1.weight"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": s["txt_in.weight"][1],
    }


def flux(s: Shapes) -> dict[str, Any]:
    """The transformer of Flux; a head's rotation is shared out 2 : 7 : 7."""
    config = double_and_single(s)
    head = config["attention_head_dim"]
    return config | {
        "out_channels": s["final_layer.linear.weight"][0],
        "axes_dims_rope": [head // 8, head * 7 // 16, head * 7 // 16],
        "pooled_projection_dim": s["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in s,
    }


def flux2(s: Shapes) -> dict[str, Any]:
    """The transformer of Flux 2, whose four axes share a head's rotation equally."""
    config = double_and_single(s)
    inner, width = s["double_blocks.0.img_mlp.0.weight"]
    return config | {
        "axes_dims_rope": [config["attention_head_dim"] // 4] * 4,
        "mlp_ratio": inner / (2 * width),
        "timestep_guidance_channels": s["time_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in s,
    }


def chroma(s: Shapes) -> dict[str, Any]:
    """The transformer of Chroma: Flux's, with a small network that gives the modulations."""
    config = double_and_single(s)
    head = config["attention_head_dim"]
    hidden, channels = s["distilled_guidance_layer.in_proj.weight"]
    return config | {
        "axes_dims_rope": [head // 8, head * 7 // 16, head * 7 // 16],
        "approximator_num_channels": channels,
        "approximator_hidden_dim": hidden,
        "approximator_layers": count(s, "distilled_guidance_layer.layers.{}.in_layer.weight"),
    }


def wan(s: Shapes) -> dict[str, Any]:
    """The transformer of Wan, whose heads are 128 wide."""
    width, channels, *patch = s["patch_embedding.weight"]
    return {
        "in_channels": channels,
        "out_channels": s["head.head.weight"][0] // (patch[0] * patch[1] * patch[2]),
        "patch_size": list(patch),
        "num_layers": count(s, "blocks.{}.ffn.0.weight"),
        "num_attention_heads": max(width // 128, 1),
        "attention_head_dim": min(width, 128),
        "text_dim": s["text_embedding.0.weight"][1],
        "freq_dim": s["time_embedding.0.weight"][1],
        "ffn_dim": s["blocks.0.ffn.0.weight"][0],
        "image_dim": s["img_emb.proj.1.weight"][1] if "img_emb.proj.1.weight" in s else None,
        "added_kv_proj_dim": s["blocks.0.cross_attn.k_img.weight"][1] if "img_emb.proj.1.weight" in s else None,
    }


def wan_vace(s: Shapes) -> dict[str, Any]:
    """The transformer of Wan VACE, whose blocks for the control belong to every second or fifth of Wan's."""
    config, control = wan(s), count(s, "vace_blocks.{}.ffn.0.weight")
    return config | {
        "vace_layers": list(range(0, config["num_layers"], config["num_layers"] // max(control, 1))),
        "vace_in_channels": s["vace_patch_embedding.weight"][1],
    }


def ltx(s: Shapes) -> dict[str, Any]:
    """The transformer of LTX-Video, which has 32 heads."""
    width, channels = s["patchify_proj.weight"]
    return {
        "in_channels": channels,
        "out_channels": s["proj_out.weight"][0],
        "num_attention_heads": 32,
        "attention_head_dim": width // 32,
        "cross_attention_dim": width,
        "num_layers": count(s, "transformer_blocks.{}.attn1.to_q.weight"),
        "caption_channels": s["caption_projection.linear_1.weight"][1],
    }


def hunyuan(s: Shapes) -> dict[str, Any]:
    """The transformer of HunyuanVideo; a head's rotation is shared out 2 : 7 : 7."""
    width, channels, *patch = s["img_in.proj.weight"]
    head = s["double_blocks.0.img_attn_q_norm.weight"][0]
    return {
        "in_channels": channels,
        "out_channels": s["final_layer.linear.weight"][0] // prod(patch),
        "patch_size_t": patch[0],
        "patch_size": patch[-1],
        "num_layers": count(s, "double_blocks.{}.img_attn_qkv.weight"),
        "num_single_layers": count(s, "single_blocks.{}.linear1.weight"),
        "num_refiner_layers": count(s, "txt_in.individual_token_refiner.blocks.{}.norm1.weight"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "mlp_ratio": s["double_blocks.0.img_mlp.fc1.weight"][0] / width,
        "text_embed_dim": s["txt_in.input_embedder.weight"][1],
        "pooled_projection_dim": s["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.mlp.0.weight" in s,
        "rope_axes_dim": [head // 8, head * 7 // 16, head * 7 // 16],
    }


TRANSFORMERS: dict[str, Callable[[Shapes], dict[str, Any]]] = {
    "sd3": sd3, "flux": flux, "flux2": flux2, "chroma": chroma, "hidream": hidream, "qwen_image": qwen,
    "qwen_image21": qwen21, "z_image": z_image, "wan": wan, "wan_fun": wan, "wan_vace": wan_vace, "ltxv": ltx,
    "hunyuan_video": hunyuan,
}  # fmt: skip
"""How the config of a family's transformer is read."""
