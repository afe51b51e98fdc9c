"""Side networks under the names that they were published with, written down independently of what loading uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import original_names as names
from small_models import randomise
from torch import Tensor

Weights = dict[str, Tensor]


def control_net(
    kind: str = "ControlNetModel", depths: tuple[int, ...] = (1, 1, 1, 0), middle: int = 1, **changes: Any
) -> Any:
    """A ControlNet of diffusers with two layers in a level, as published; heads are 64 wide with matrices for them."""
    import diffusers

    settings: dict[str, Any] = {
        "block_out_channels": (32, 64, 64, 64)[: len(depths)],
        "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths),
        "transformer_layers_per_block": (*(depth or 1 for depth in depths[:-1]), depths[-1] or middle),
        "cross_attention_dim": 64,
        "attention_head_dim": (1,) * len(depths) if changes.get("use_linear_projection") else 8,
        "conditioning_embedding_out_channels": (8, 16, 16, 16),
    }
    return randomise(getattr(diffusers, kind)(**settings | changes), 1)


XL: dict[str, Any] = {
    "depths": (0, 1, 2), "middle": 2, "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 6 * 256 + 96,
}  # fmt: skip
"""What a ControlNet for SDXL has."""


def lllyasviel(module: Any, depths: tuple[int, ...], middle: int, prefix: str = "control_model.") -> Weights:
    """A ControlNet's weights as lllyasviel named them."""
    return names.renamed(module, ldm_pairs(depths, middle), prefix)


def ldm_pairs(depths: tuple[int, ...], middle: int) -> Iterator[tuple[str, str]]:
    yield from names.unet(depths, middle)
    for i in range(3 * len(depths)):
        yield f"zero_convs.{i}.0", f"controlnet_down_blocks.{i}"
    yield "middle_block_out.0", "controlnet_mid_block"
    yield "input_hint_block.0", "controlnet_cond_embedding.conv_in"
    for i in range(6):
        yield f"input_hint_block.{2 * (i + 1)}", f"controlnet_cond_embedding.blocks.{i}"
    yield "input_hint_block.14", "controlnet_cond_embedding.conv_out"


def adapter(kind: str = "full_adapter", **changes: Any) -> Any:
    """A T2I-Adapter of diffusers with as many levels as published."""
    from diffusers import T2IAdapter

    channels = [32, 64, 64] if kind == "light_adapter" else [32, 64, 64, 64]
    settings: dict[str, Any] = {"channels": channels, "num_res_blocks": 2, "downscale_factor": 8, "adapter_type": kind}
    return randomise(T2IAdapter(**settings | changes), 1)


def tencent(module: Any, prefix: str = "") -> Weights:
    """A T2I-Adapter's weights as TencentARC named them: a full one has the blocks of all levels in one list."""
    out: Weights = {}
    for name, value in module.state_dict().items():
        parts = name.removeprefix("adapter.").split(".")
        if module.config.adapter_type == "light_adapter":
            parts = ["body" if part == "resnets" else part for part in parts]
        elif parts[0] == "body":
            block = 2 * int(parts[1]) + (int(parts[3]) if parts[2] == "resnets" else 0)
            parts = ["body", str(block), *(parts[4:] if parts[2] == "resnets" else parts[2:])]
        out[prefix + ".".join(parts)] = value
    return out


def flux(**changes: Any) -> Any:
    """A ControlNet of diffusers for Flux; the text is as wide as that of the small models."""
    from diffusers import FluxControlNetModel

    settings: dict[str, Any] = {
        "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 32, "num_attention_heads": 1,
        "joint_attention_dim": 32, "pooled_projection_dim": 32, "guidance_embeds": True, "axes_dims_rope": [4, 14, 14],
    }  # fmt: skip
    return randomise(FluxControlNetModel(**settings | changes), 1)


XLABS: dict[str, Any] = {
    "num_layers": 2, "num_single_layers": 0, "conditioning_embedding_channels": 16, "patch_size": 2,
}  # fmt: skip
"""What a ControlNet of XLabs has."""


def xlabs(module: Any) -> Weights:
    """A ControlNet's weights as XLabs named them: Flux's own names, and the image's layers one after another."""
    take = names.Taken(module)
    take("img_in", "x_embedder")
    take("txt_in", "context_embedder")
    take("pos_embed_input", "controlnet_x_embedder")
    for old, new in {"time_in": "timestep", "vector_in": "text", "guidance_in": "guidance"}.items():
        names.perceptron(take, old, f"{new}_embedder", "in_layer", "out_layer")
    take("input_hint_block.0", "input_hint_block.conv_in")
    take("input_hint_block.14", "input_hint_block.conv_out")
    for i in range(6):
        take(f"input_hint_block.{2 + 2 * i}", f"input_hint_block.blocks.{i}")
    for i in range(len(module.transformer_blocks)):
        take(f"controlnet_blocks.{i}", f"controlnet_blocks.{i}")
        names.flux_joint_block(take, i)
    return take.all("")


def sd3(**changes: Any) -> Any:
    """A ControlNet of diffusers for Stable Diffusion 3; the text is as wide as that of the small models."""
    from diffusers import SD3ControlNetModel

    settings: dict[str, Any] = {
        "sample_size": 8, "num_layers": 2, "attention_head_dim": 64, "num_attention_heads": 1,
        "joint_attention_dim": 64, "caption_projection_dim": 64, "pooled_projection_dim": 56, "pos_embed_max_size": 12,
    }  # fmt: skip
    return randomise(SD3ControlNetModel(**settings | changes), 1)


LARGE: dict[str, Any] = {
    "joint_attention_dim": None, "use_pos_embed": False, "pos_embed_type": None,
    "force_zeros_for_pooled_projection": False,
}  # fmt: skip
"""What a ControlNet of Stable Diffusion 3.5 large has."""


def stability(module: Any) -> Weights:
    """A ControlNet's weights as Stability AI named them."""
    take = names.Taken(module)
    names.perceptron(take, "t_embedder", "timestep_embedder", "mlp.0", "mlp.2")
    names.perceptron(take, "y_embedder", "text_embedder", "mlp.0", "mlp.2")
    take("pos_embed_input.proj", "pos_embed_input.proj")
    for i in range(len(module.transformer_blocks)):
        block = f"transformer_blocks.{i}"
        take(f"controlnet_blocks.{i}", f"controlnet_blocks.{i}")
        take(f"{block}.adaLN_modulation.1", f"{block}.norm1.linear")
        take(f"{block}.attn.qkv", *(f"{block}.attn.to_{x}" for x in "qkv"))
        take(f"{block}.attn.proj", f"{block}.attn.to_out.0")
        take(f"{block}.mlp.fc1", f"{block}.ff.net.0.proj")
        take(f"{block}.mlp.fc2", f"{block}.ff.net.2")
    return take.all("")
