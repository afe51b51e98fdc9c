"""Recognises the side network in a single file, a ControlNet or a T2I-Adapter, by the names of its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sigmafield.models.single_file.layouts import Shapes

Names = Literal["diffusers", "ldm", "adapter", "xlabs", "stability", "z_image"]
"""In whose words the weights are named."""

KINDS = ("openpose", "depth", "scribble", "canny", "normal", "segment", "tile", "repaint")
"""Kinds of hint of a UNet's union, in the order of its types; some unions know only the first six."""

FLUX_KINDS = ("canny", "tile", "depth", "blur", "openpose", "grey", "low_quality")
"""Kinds of hint of Flux's unions, in the order of their modes."""

NOT_SUPPORTED = {
    r"(^|\.)lora_controlnet$": "a Control-LoRA",
    r"(^|[._])lllite[._]": "a ControlNet-LLLite",
    r"^difference$": "the difference between a ControlNet and a UNet",
    r"\.motion_modules\.": "a SparseCtrl of AnimateDiff",
    r"^transformer_blocks\.\d+\.img_mod\.": "a ControlNet of Qwen-Image",
    r"^style_embedding$": "a T2I-Adapter for styles",
    r"^(controlnet_)?mid_block\.additional|^ctrl_": "a ControlNet-XS",
}
"""Side networks that a name gives away and that are not supported."""

SIGNS: tuple[tuple[str, Names, str], ...] = (
    ("ControlNetUnionModel", "diffusers", r"^task_embedding$"),
    ("ControlNetModel", "diffusers", r"^controlnet_cond_embedding\.conv_in\.weight$"),
    ("ControlNetModel", "ldm", r"^(control_model\.)?zero_convs\.0\.0\.weight$"),
    ("FluxControlNetModel", "xlabs", r"^double_blocks\.0\.img_attn\.qkv\.weight$"),
    ("FluxControlNetModel", "diffusers", r"^controlnet_x_embedder\.weight$"),
    ("SD3ControlNetModel", "stability", r"^y_embedder\.mlp\.0\.weight$"),
    ("SD3ControlNetModel", "diffusers", r"^pos_embed_input\.proj\.weight$"),
    ("ZImageControlNetModel", "z_image", r"^control_layers\.0\.after_proj\.weight$"),
    ("T2IAdapter", "diffusers", r"^adapter\.body\.0\.resnets\.0\.block1\.weight$"),
    ("T2IAdapter", "adapter", r"^(adapter\.)?body\.0\.(block1|body\.0\.block1)\.weight$"),
)
"""The class and the words of a side network whose weights have a name that matches."""

OUTPUTS = re.compile(
    r"^(control_model\.)?(zero_convs\.0\.0|controlnet_blocks\.0|controlnet_down_blocks\.0|control_layers\.0\.after_proj)"
    r"\.weight$"
)
"""The first output of every side network except an adapter's, which a network that is steered does not have."""


@dataclass(frozen=True)
class SideFile:
    """A side network in a file.

    Args:
        kind: Its class in diffusers.
        names: In whose words its weights are named.
        prefix: What its names begin with in the file.
    """

    kind: str
    names: Names
    prefix: str


def side_file(shapes: Shapes) -> SideFile | None:
    """Recognises the side network in a file by the names of all weights; None: there is not one.

    Raises:
        ValueError: If it is of a kind that is not supported.
    """
    for pattern, what in NOT_SUPPORTED.items():
        if any(re.search(pattern, name) for name in shapes):
            raise ValueError(f"this is {what}, which is not supported")
    outputs = any(map(OUTPUTS.match, shapes))
    for kind, names, pattern in SIGNS:
        sign = re.compile(pattern)
        found = next((match for match in map(sign.match, shapes) if match), None)
        if found and (outputs or kind == "T2IAdapter"):
            return SideFile(kind, names, (found[1] or "") if found.re.groups else "")
    return None
