"""Configs of the parts of recent families as far as the shapes of weights tell them."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from sigmafield.models.single_file.layouts import LTX_095, Shapes, count


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
    """What the transformers of Flux, Flux 2 and Chroma have in common."""
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


def language(s: Shapes) -> dict[str, Any]:
    """A language model; Qwen 3 has norms as wide as a head, of others a head is 128 wide."""
    words, width = s["model.embed_tokens.weight"]
    first = "model.layers.0.self_attn.{}.weight"
    head = s.get(first.format("q_norm"), (min(128, width),))[0]
    return {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": s["model.layers.0.mlp.gate_proj.weight"][0],
        "num_hidden_layers": count(s, "model.layers.{}.mlp.gate_proj.weight"),
        "num_attention_heads": s[first.format("q_proj")][0] // head,
        "num_key_value_heads": s[first.format("k_proj")][0] // head,
        "head_dim": head,
        "tie_word_embeddings": "lm_head.weight" not in s,
    }


def seeing(s: Shapes) -> dict[str, Any]:
    """Qwen 2.5 VL: a language model, and a vision encoder whose heads are 80 wide."""
    width, _, frames, patch, _ = s["visual.patch_embed.proj.weight"]
    sight = {
        "depth": count(s, "visual.blocks.{}.attn.qkv.weight"),
        "hidden_size": width,
        "intermediate_size": s["visual.blocks.0.mlp.gate_proj.weight"][0],
        "num_heads": max(width // 80, 1),
        "patch_size": patch,
        "temporal_patch_size": frames,
        "out_hidden_size": s["visual.merger.mlp.2.weight"][0],
    }
    text = language(s)
    share = text["head_dim"] // 16
    turns = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2 * share, 3 * share, 3 * share]}
    text |= {"model_type": "qwen2_5_vl_text", "rms_norm_eps": 1e-6, "rope_parameters": turns}
    return {"text_config": text, "vision_config": sight, "tie_word_embeddings": text["tie_word_embeddings"]}


def seeing3(s: Shapes) -> dict[str, Any]:
    """Qwen 3 VL: a language model, and a vision encoder whose heads are 72 wide."""
    s = {name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): s[name] for name in s}
    width, _, frames, patch, _ = s["visual.patch_embed.proj.weight"]
    depth, more = count(s, "visual.blocks.{}.attn.qkv.weight"), count(s, "visual.deepstack_merger_list.{}.norm.weight")
    sight = {
        "depth": depth,
        "hidden_size": width,
        "intermediate_size": s["visual.blocks.0.mlp.linear_fc1.weight"][0],
        "num_heads": max(width // 72, 1),
        "patch_size": patch,
        "temporal_patch_size": frames,
        "out_hidden_size": s["visual.merger.linear_fc2.weight"][0],
        "num_position_embeddings": s["visual.pos_embed.weight"][0],
        "deepstack_visual_indexes": {27: [8, 16, 24], 24: [5, 11, 17]}.get(depth, list(range(more))),
    }
    text = language(s)
    share = text["head_dim"] * 5 // 32
    turns = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [text["head_dim"] // 2 - 2 * share, share, share],
        "mrope_interleaved": True,
    }
    text |= {"model_type": "qwen3_vl_text", "rms_norm_eps": 1e-6, "rope_parameters": turns}
    return {"text_config": text, "vision_config": sight, "tie_word_embeddings": text["tie_word_embeddings"]}


def kl_qwen21(s: Shapes) -> dict[str, Any]:
    """The autoencoder of Qwen-Image 2.1, by diffusers' names or those of Wan's; its last level is 8 times wider."""
    first, last = (
        f"{side}.conv1.weight" if "conv2.weight" in s else f"{side}.conv_in.weight" for side in ("encoder", "decoder")
    )
    return {"z_dim": s[last][1], "base_dim": s[first][0], "decoder_base_dim": s[last][0] // 8}


def kl_flux2(s: Shapes) -> dict[str, Any]:
    """The autoencoder of Flux 2."""
    levels = count(s, "decoder.up.{}.block.0.conv1.weight")
    return {
        "latent_channels": s["decoder.conv_in.weight"][1],
        "block_out_channels": [s[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)],
        "decoder_block_out_channels": [s[f"decoder.up.{i}.block.0.conv1.weight"][0] for i in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": count(s, "decoder.up.0.block.{}.conv1.weight") - 1,
    }


def kl_wan(s: Shapes) -> dict[str, Any]:
    """The autoencoder of Wan 2.1 and Qwen-Image, or that of Wan 2.2 5B, which reads patches of 2×2 pixels."""
    channels, (base, read) = s["conv2.weight"][0], s["encoder.conv1.weight"][:2]
    config: dict[str, Any] = {"z_dim": channels, "base_dim": base}
    if "encoder.downsamples.0.downsamples.0.residual.2.weight" not in s:
        return config
    return config | {
        "decoder_base_dim": s["decoder.conv1.weight"][0] // 4,
        "is_residual": True,
        "in_channels": read,
        "out_channels": read,
        "patch_size": 2,
        "scale_factor_spatial": 16,
        "latents_mean": [0.0] * channels,
        "latents_std": [1.0] * channels,
    }


OLD_LTX: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["LTXVideoDownBlock3D"] * 4,
    "layers_per_block": [4, 3, 3, 3, 4],
    "spatio_temporal_scaling": [True, True, True, False],
    "downsample_type": ["conv"] * 4,
}
"""The encoder of LTX-Video before 0.9.5."""
FIRST_LTX: dict[str, Any] = {
    "decoder_block_out_channels": [128, 256, 512, 512],
    "decoder_layers_per_block": [4, 3, 3, 3, 4],
    "decoder_spatio_temporal_scaling": [True, True, True, False],
    "decoder_inject_noise": [False] * 5,
    "upsample_residual": [False] * 4,
    "upsample_factor": [1] * 4,
    "timestep_conditioning": False,
}
"""The decoder of 0.9.0."""
SECOND_LTX: dict[str, Any] = {
    "decoder_layers_per_block": [5, 6, 7, 8],
    "decoder_inject_noise": [True, True, True, False],
}
"""The decoder of 0.9.1, where it is not that of 0.9.5."""


def kl_ltx(s: Shapes) -> dict[str, Any]:
    """The autoencoder of LTX-Video; those before 0.9.5 have one size each."""
    if LTX_095 not in s:
        return OLD_LTX | (SECOND_LTX if "decoder.last_scale_shift_table" in s else FIRST_LTX)
    down, up = (
        "encoder.down_blocks.{}.res_blocks.{}.conv1.conv.weight",
        "decoder.up_blocks.{}.res_blocks.{}.conv1.conv.weight",
    )
    return {
        "latent_channels": s["decoder.conv_in.conv.weight"][1],
        "block_out_channels": [s[down.format(i, 0)][0] for i in (0, 2, 4, 6, 8)],
        "layers_per_block": [count(s, down.format(i, "{}")) for i in (0, 2, 4, 6, 8)],
        "decoder_block_out_channels": [2 * s[up.format(i, 0)][0] for i in (6, 4, 2)],
        "decoder_layers_per_block": [count(s, up.format(i, "{}")) for i in (6, 4, 2, 0)],
        "timestep_conditioning": "decoder.last_scale_shift_table" in s,
    }


TRANSFORMERS: dict[str, Callable[[Shapes], dict[str, Any]]] = {
    "hidream": hidream, "qwen_image": qwen, "qwen_image21": qwen21, "z_image": z_image, "flux2": flux2,
    "chroma": chroma, "wan": wan, "wan_fun": wan, "wan_vace": wan_vace, "ltxv": ltx,
    "hunyuan_video": hunyuan,
}  # fmt: skip
"""How the config of a family's transformer is read."""
ENCODERS: dict[str, Callable[[Shapes], dict[str, Any]]] = {
    "qwen_image": seeing,
    "qwen_image21": seeing3,
    "z_image": language,
    "flux2": language,
    "flux2_dev": language,
}
"""How the config of a family's language model is read."""
VAES: dict[str, Callable[[Shapes], dict[str, Any]]] = {
    "flux2": kl_flux2, "qwen_image": kl_wan, "qwen_image21": kl_qwen21, "wan": kl_wan, "wan_fun": kl_wan,
    "wan_vace": kl_wan, "ltxv": kl_ltx,
}  # fmt: skip
"""How the config of a family's autoencoder is read, where it is not of Stable Diffusion's kind."""
