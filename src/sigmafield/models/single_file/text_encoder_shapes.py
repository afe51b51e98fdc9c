"""Configs of text encoders, as far as the shapes of their weights tell them: CLIP, T5 and language models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sigmafield.models.single_file.layouts import Shapes, count


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


LANGUAGE_MODELS: dict[str, Callable[[Shapes], dict[str, Any]]] = {
    "qwen_image": seeing,
    "qwen_image21": seeing3,
    "z_image": language,
    "flux2": language,
    "flux2_dev": language,
}
"""How the config of a family's language model is read."""
