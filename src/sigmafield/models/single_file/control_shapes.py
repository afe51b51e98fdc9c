"""Configs of side networks as far as the shapes of their weights tell them; the weights have diffusers' names.

What shapes do not tell is as published: 8 heads, or heads 64 wide since Stable Diffusion 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sigmafield.models.single_file.layouts import Shapes, count

TIME = 256
"""Width of the embedding of each of SDXL's six numbers."""


def control_net(s: Shapes) -> dict[str, Any]:
    """A ControlNet of a UNet: widths of its levels, transformers in each, what the model gives it as well."""
    levels = count(s, "down_blocks.{}.resnets.0.conv1.weight")
    widths = [s[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels)]
    attending = [f"down_blocks.{i}.attentions.0.norm.weight" in s for i in range(levels)]
    depths = [count(s, f"down_blocks.{i}.attentions.0.transformer_blocks.{{}}.norm1.weight") for i in range(levels)]
    middle = count(s, "mid_block.attentions.0.transformer_blocks.{}.norm1.weight")
    text = [shape[1] for name, shape in s.items() if name.endswith("attn2.to_k.weight")]
    extra = s.get("add_embedding.linear_1.weight")
    linear = [len(shape) == 2 for name, shape in s.items() if name.endswith(".proj_in.weight")]
    config = {
        "in_channels": s["conv_in.weight"][1],
        "conditioning_channels": s["controlnet_cond_embedding.conv_in.weight"][1],
        "conditioning_embedding_out_channels": hint_widths(s),
        "block_out_channels": widths,
        "layers_per_block": count(s, "down_blocks.0.resnets.{}.conv1.weight"),
        "down_block_types": ["CrossAttnDownBlock2D" if there else "DownBlock2D" for there in attending],
        "transformer_layers_per_block": [*(depth or int(not there) for depth, there in zip(depths, attending))],
        "cross_attention_dim": text[0] if text else 2048 if extra else 768,
        "use_linear_projection": any(linear),
        "attention_head_dim": [max(width // 64, 1) for width in widths] if any(linear) else 8,
    }
    if not attending[-1]:  # the last entry is the middle block's, too
        config["transformer_layers_per_block"][-1] = middle or 1
    if "mid_block.attentions.0.norm.weight" not in s:
        config["mid_block_type"] = "UNetMidBlock2D"
    if extra:
        config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": TIME}
        config["projection_class_embeddings_input_dim"] = extra[1]
    return config


def hint_widths(s: Shapes) -> list[int]:
    """Widths of what reads the image: of its first layer, and of every second one after it, which halves the sides."""
    name = "controlnet_cond_embedding.blocks.{}.weight"
    layers = range(1, count(s, name), 2)
    return [s["controlnet_cond_embedding.conv_in.weight"][0], *(s[name.format(i)][0] for i in layers)]


def union(s: Shapes) -> dict[str, Any]:
    """A ControlNet of a UNet that reads several kinds of images."""
    kinds, width = s["task_embedding"]
    return control_net(s) | {
        "num_control_type": kinds,
        "num_trans_channel": width,
        "num_trans_layer": count(s, "transformer_layes.{}.attn.in_proj_weight"),
        "num_proj_channel": s["spatial_ch_projs.weight"][0],
        "addition_time_embed_dim": s["control_add_embedding.linear_1.weight"][1] // kinds,
    }


def adapter(s: Shapes) -> dict[str, Any]:
    """A T2I-Adapter: the image is grey if its unshuffled channels are a square, else it has three colours."""
    light = "adapter.body.0.out_conv.weight" in s
    unshuffled = s["adapter.body.0.in_conv.weight" if light else "adapter.conv_in.weight"][1]
    grey = math.isqrt(unshuffled) ** 2 == unshuffled
    factor = math.isqrt(unshuffled if grey else unshuffled // 3)
    widths = [
        s[f"adapter.body.{i}.{'out_conv' if light else 'resnets.0.block1'}.weight"][0]
        for i in range(count(s, "adapter.body.{}.resnets.0.block1.weight"))
    ]
    return {
        "in_channels": 1 if grey else 3,
        "channels": widths[:-1] if light else widths,
        "num_res_blocks": count(s, "adapter.body.0.resnets.{}.block1.weight"),
        "downscale_factor": factor,
        "adapter_type": "light_adapter" if light else "full_adapter_xl" if factor == 16 else "full_adapter",
    }


def flux(s: Shapes) -> dict[str, Any]:
    """A ControlNet of Flux: with a union's kinds, or with layers that read the image itself instead of its latent."""
    width, channels = s["x_embedder.weight"]
    joint, single = "transformer_blocks.{}.attn.norm_q.weight", "single_transformer_blocks.{}.attn.norm_q.weight"
    head = (s.get(joint.format(0)) or s[single.format(0)])[0]
    hint = s.get("input_hint_block.conv_out.weight")
    return {
        "patch_size": 2 if hint else 1,
        "in_channels": channels,
        "num_layers": count(s, joint),
        "num_single_layers": count(s, single),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": s["context_embedder.weight"][1],
        "pooled_projection_dim": s["time_text_embed.text_embedder.linear_1.weight"][1],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in s,
        "axes_dims_rope": [head // 8, head * 7 // 16, head * 7 // 16],
        "num_mode": s["controlnet_mode_embedder.weight"][0] if "controlnet_mode_embedder.weight" in s else None,
        "conditioning_embedding_channels": hint[0] if hint else None,
    }


def sd3(s: Shapes) -> dict[str, Any]:
    """A ControlNet of Stable Diffusion 3; that of 3.5 large has no text and takes the model's own position table."""
    width, channels, patch, _ = s["pos_embed_input.proj.weight"]
    layers = count(s, "transformer_blocks.{}.attn.to_q.weight")
    table, text = s.get("pos_embed.pos_embed"), s.get("context_embedder.weight")
    taken = s["pos_embed.proj.weight"][1] if table else channels
    return {
        "patch_size": patch,
        "in_channels": taken,
        "out_channels": taken,
        "extra_conditioning_channels": channels - taken,
        "num_layers": layers,
        "num_attention_heads": width // 64,
        "joint_attention_dim": text[1] if text else None,
        "caption_projection_dim": width,
        "pooled_projection_dim": s["time_text_embed.text_embedder.linear_1.weight"][1],
        "pos_embed_max_size": math.isqrt(table[1]) if table else None,
        "pos_embed_type": "sincos" if table else None,
        "use_pos_embed": table is not None,
        "dual_attention_layers": [i for i in range(layers) if f"transformer_blocks.{i}.attn2.to_q.weight" in s],
        "qk_norm": "rms_norm" if "transformer_blocks.0.attn.norm_q.weight" in s else None,
        "force_zeros_for_pooled_projection": text is not None,
    }


def z_image(s: Shapes) -> dict[str, Any]:
    """A ControlNet of Z-Image Turbo: its layers stand at equal distances among the network's, those of 2.x closer.

    That of 2.1 has layers of its own before them, 2.0 uses the same ones twice, and the first version neither.
    """
    wide, seen = s["control_all_x_embedder.2-1.weight"]
    layers, head = count(s, "control_layers.{}.after_proj.weight"), s["control_layers.0.attention.norm_q.weight"][0]
    later, own = seen // 4 > Z_IMAGE_CHANNELS, "control_noise_refiner.0.after_proj.weight" in s
    refined = count(s, "control_noise_refiner.{}.attention.norm_q.weight")
    return {
        "control_layers_places": [i * (Z_IMAGE_LAYERS // layers) for i in range(layers)],
        "control_refiner_layers_places": list(range(refined or 2)) if later else None,
        "control_in_dim": seen // 4,
        "add_control_noise_refiner": ("control_noise_refiner" if own else "control_layers") if later else None,
        "dim": wide,
        "n_refiner_layers": refined or 2,
        "n_heads": wide // head,
        "n_kv_heads": wide // head,
    }


Z_IMAGE_LAYERS = 30
"""Layers of Z-Image's network."""
Z_IMAGE_CHANNELS = 16
"""Channels of its latents; later ControlNets are shown more."""

CONFIGS: dict[str, Callable[[Shapes], dict[str, Any]]] = {
    "ControlNetModel": control_net,
    "ControlNetUnionModel": union,
    "T2IAdapter": adapter,
    "FluxControlNetModel": flux,
    "SD3ControlNetModel": sd3,
    "ZImageControlNetModel": z_image,
}
"""How the config of a class is read off the shapes of its weights."""
