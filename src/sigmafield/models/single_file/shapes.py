"""Configs of a model's parts as far as the shapes of its weights tell them, in diffusers' and transformers' words.

What shapes do not tell (numbers of heads, activations, scales of latents) is in the configs that are shipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sigmafield.models.single_file.layouts import Layout, Shapes, count
from sigmafield.models.single_file.text_encoder_shapes import LANGUAGE_MODELS, any_clip, language, t5
from sigmafield.models.single_file.transformer_shapes import TRANSFORMERS
from sigmafield.models.single_file.vae_shapes import VAES, vae

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


def reader(family: str, part: str) -> Callable[[Shapes], dict[str, Any]]:
    """The function that reads the config of a part off its shapes."""
    if part == "unet":
        return unet
    if part == "vae":
        return VAES.get(family, vae)
    if part == "transformer":
        return TRANSFORMERS[family]
    if part == "text_encoder_4":
        return language
    if family in LANGUAGE_MODELS:
        return LANGUAGE_MODELS[family]
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
