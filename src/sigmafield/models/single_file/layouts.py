"""Recognises the family and the parts of a single file by the names and shapes of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each weight of a file, or of one part of it, by its name."""

LDM = "model.diffusion_model."
NETWORK_PREFIXES = (LDM, "")
VAE_PREFIXES = ("first_stage_model.", "vae.")
CLIP_L, CLIP_G, T5 = (f"text_encoders.{name}.transformer." for name in ("clip_l", "clip_g", "t5xxl"))
UMT5 = "text_encoders.umt5xxl.transformer."

ENCODERS = {
    "sd1": {"text_encoder": "cond_stage_model.transformer."},
    "sd2": {"text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "sdxl_refiner": {"text_encoder_2": "conditioner.embedders.0.model."},
    "sd3": {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5},
    "flux": {"text_encoder": CLIP_L, "text_encoder_2": T5},
    "chroma": {"text_encoder": T5},
    "hidream": {
        "text_encoder": CLIP_L,
        "text_encoder_2": CLIP_G,
        "text_encoder_3": T5,
        "text_encoder_4": "text_encoders.llama.transformer.",
    },
    "qwen_image": {"text_encoder": "text_encoders.qwen25_7b.transformer."},
    "qwen_image21": {"text_encoder": "text_encoders.qwen3vl_8b.transformer."},
    "z_image": {"text_encoder": "text_encoders.qwen3_4b.transformer."},
    "flux2": {"text_encoder": "text_encoders.qwen3.transformer."},
    "flux2_dev": {"text_encoder": "text_encoders.mistral3_24b.transformer."},
    "wan": {"text_encoder": UMT5},
    "wan_fun": {"text_encoder": UMT5},
    "wan_vace": {"text_encoder": UMT5},
    "ltxv": {"text_encoder": T5},
    "hunyuan_video": {"text_encoder": "text_encoders.llama.transformer.", "text_encoder_2": CLIP_L},
}
"""Where the text encoders of each family lie in a file."""

OPTIONAL = ("text_encoder_3",)
"""Parts that a model can do without."""
APART = ("ltxv",)
"""Families whose files hold network and VAE, and never the text encoder, which is loaded from a file of its own."""

NOT_SUPPORTED = {
    "edm_mean": "Playground 2.5",
    "edm_vpred.sigma_max": "CosXL",
    "nerf_image_embedder.": "Chroma Radiance",
    "double_layers.0.attn.": "AuraFlow",
    "clip_txt_mapper.": "Stable Cascade",
    "down_blocks.0.0.channelwise.": "Stable Cascade",
    "control_adapter.": "Wan with a camera",
    "casual_audio_encoder.": "Wan S2V",
    "face_adapter.": "Wan Animate",
    "byt5_in.": "HunyuanImage 2.1 or HunyuanVideo 1.5",
    "audio_patchify_proj.": "LTX-2",
    "input_blocks.1.0.time_stack.": "Stable Video Diffusion",
}
"""Networks that a name gives away and that are not loaded from a single file."""

NO_NETWORK = {
    r"(^|[._])lora[._]|lora_(down|up|A|B)\b|\.hada_w1|\.lokr_w1": "a LoRA, which changes a network",
    r"^control_model\.|controlnet_|^input_hint_block\.": "a ControlNet",
    r"^ip_adapter\.|^image_proj\.": "an IP-Adapter",
    r"^(first_stage_model\.|vae\.)?(encoder\.|decoder\.)(conv_in|mid)": "a VAE alone",
    r"^(transformer\.)?(text_model\.|encoder\.block\.|shared\.weight)|resblocks\.": "a text encoder alone",
    r"^(down_blocks|mid_block|transformer_blocks|single_transformer_blocks)\.": (
        "a network in diffusers' layout: put it in a directory with the other parts and load that"
    ),
    r"^(emb_params|string_to_param|clip_[lg])": "an embedding of words (textual inversion)",
    r"^model\.\d+\.|^body\.\d+\.|^RDB_": "an upscaler of images",
}
"""What a file without a diffusion network may be, by a pattern that a name in it matches."""

LTX_095 = "encoder.down_blocks.1.conv.conv.weight"
"""A weight of the VAE of LTX-Video since 0.9.5."""


def count(shapes: Shapes, name: str) -> int:
    """How many numbers from 0 upwards can stand for {} in a name of a weight."""
    n = 0
    while name.format(n) in shapes:
        n += 1
    return n


@dataclass(frozen=True)
class Layout:
    """A family of models, by its folder of configs, and where its parts lie: part → prefix of names in the file."""

    family: str
    prefixes: Mapping[str, str]

    @property
    def parts(self) -> list[str]:
        """All parts with weights that a model of the family has, in the file or not."""
        return [network_part(self.family), "vae", *ENCODERS[self.family]]

    def of(self, part: str, shapes: Shapes) -> Shapes:
        """The shapes of one part that is in the file, by names without the prefix."""
        prefix = self.prefixes[part]
        return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def network_part(family: str) -> str:
    """The name of a family's network among its parts."""
    return "unet" if family.startswith("sd") and family != "sd3" else "transformer"


def recognise(shapes: Shapes) -> Layout:
    """The layout of a file with weights of these shapes. Raises ValueError in one line saying what it seems to be."""
    for prefix in NETWORK_PREFIXES:
        for fragment, name in NOT_SUPPORTED.items():
            if any(key.startswith((fragment, prefix + fragment)) for key in shapes):
                raise ValueError(f"this is {name}, which is not supported; supported: {', '.join(ENCODERS)}")
        family = family_of({key.removeprefix(prefix): s for key, s in shapes.items() if key.startswith(prefix)})
        if family and family not in ENCODERS:
            raise ValueError(f"this is {family}, which is not supported; supported: {', '.join(ENCODERS)}")
        if family:
            break
    else:
        raise ValueError(f"no diffusion network found; {seems(shapes)}")
    prefixes = {network_part(family): prefix, **ENCODERS[family]}
    prefixes["vae"] = next((p for p in VAE_PREFIXES if f"{p}decoder.conv_in.weight" in shapes), "vae.")
    there = {part: p for part, p in prefixes.items() if any(key.startswith(p) for key in shapes)}
    return Layout(family, there)


TRANSFORMERS = {
    "caption_projection.0.linear.weight": "hidream",
    "txt_in.text_norm.weight": "qwen_image21",
    "transformer_blocks.0.img_mod.1.weight": "qwen_image",
    "cap_pad_token": "z_image",
    "double_stream_modulation_img.lin.weight": "flux2",
    "distilled_guidance_layer.in_proj.weight": "chroma",
    "double_blocks.0.img_attn.qkv.weight": "flux",
    "vace_patch_embedding.weight": "wan_vace",
    "ref_conv.weight": "wan_fun",
    "head.modulation": "wan",
    "patchify_proj.weight": "ltxv",
    "txt_in.individual_token_refiner.blocks.0.norm1.weight": "hunyuan_video",
    "cap_embedder.0.weight": "Lumina 2",
}
"""Families by a weight that their network has, the more special ones first."""


def family_of(network: Shapes) -> str | None:
    """The family of a network by the names and shapes of its weights; None where it is of none that is known.

    A UNet of Stable Diffusion 1 projects by convolutions, 2 by matrices; XL also takes a vector (label_emb) and has
    no attention at its first level, its refiner has four levels where the base has three.
    """
    if "joint_blocks.0.context_block.attn.qkv.weight" in network:
        return "sd3"
    for fragment, family in TRANSFORMERS.items():
        if fragment in network:
            return family
    if "input_blocks.0.0.weight" not in network or "output_blocks.0.0.in_layers.2.weight" not in network:
        return None
    if "label_emb.0.0.weight" in network and "input_blocks.1.1.proj_in.weight" not in network:
        return "sdxl_refiner" if "input_blocks.9.0.op.weight" in network else "sdxl"
    return "sd2" if len(network.get("input_blocks.1.1.proj_in.weight", ())) == 2 else "sd1"


def seems(shapes: Shapes) -> str:
    """What a file without a diffusion network looks like."""
    for pattern, what in NO_NETWORK.items():
        if any(re.search(pattern, key) for key in shapes):
            return f"looks like {what}"
    first = ", ".join(sorted(shapes)[:3])
    return f"its {len(shapes)} weights begin with {first}" if shapes else "the file is empty"
