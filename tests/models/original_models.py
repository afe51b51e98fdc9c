"""Small models, some of the published depth, and files of them in the published layout."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import original_names as names
import torch
from small_models import clip, flow_scheduler, randomise, scheduler, t5
from torch import Tensor

from sigmafield.models.single_file.tokenizers import unpack

VOCABULARY = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}
SPREAD = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
FLOW_VAE = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
C, D = "CrossAttnDownBlock2D", "DownBlock2D"


def text(width: int, layers: int, **changes: Any) -> Any:
    """A text encoder of CLIP with the shipped vocabulary and heads 64 wide."""
    heads = {"num_attention_heads": width // 64, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    return clip(49408, width, **VOCABULARY | heads | {"hidden_act": "gelu"} | changes)


def unet(widths: tuple[int, ...], depths: tuple[int, ...], middle: int, **changes: Any) -> Any:
    """A UNet of these levels."""
    from diffusers import UNet2DConditionModel

    down = tuple(C if depth else D for depth in depths)
    return randomise(
        UNet2DConditionModel(
            block_out_channels=widths,
            down_block_types=down,
            up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(down)),
            transformer_layers_per_block=(*(depth or 1 for depth in depths[:-1]), depths[-1] or middle),
            **changes,
        )
    )


def vae(**changes: Any) -> Any:
    """An autoencoder of four levels."""
    from diffusers import AutoencoderKL

    return randomise(
        AutoencoderKL(
            block_out_channels=(32, 32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            **changes,
        )
    )


def sd1() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Parts of a model like Stable Diffusion 1.5, and the weights of its file."""
    parts = {
        "unet": unet((32, 64, 64, 64), (1, 1, 1, 0), 1, cross_attention_dim=64, attention_head_dim=8, sample_size=64),
        "vae": vae(),
        "text_encoder": text(64, 12, hidden_act="quick_gelu"),
    }
    return parts, {
        **names.renamed(parts["unet"], names.unet((1, 1, 1, 0), 1), names.LDM),
        **names.autoencoder(parts["vae"]),
        **names.clip(parts["text_encoder"], "cond_stage_model.transformer."),
        "alphas_cumprod": torch.ones(1000),
        "model_ema.decay": torch.tensor(0.9),
    }


def sd2() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Parts of a model like Stable Diffusion 2.1, and the weights of its file: with a 24th layer of text."""
    parts = {
        "unet": unet(
            (64, 64, 64, 64), (1, 1, 1, 0), 1, cross_attention_dim=64, attention_head_dim=(1, 1, 1, 1),
            use_linear_projection=True, sample_size=96,
        ),
        "vae": vae(),
        "text_encoder": text(64, 23),
    }  # fmt: skip
    parts["unet"].get_parameter(SPREAD).zero_()  # as narrow as where noise is predicted
    prefix = "cond_stage_model.model."
    words = names.open_clip(parts["text_encoder"], prefix)
    last = {k.replace("blocks.0.", "blocks.23."): v + 1 for k, v in words.items() if "resblocks.0." in k}
    network = names.renamed(parts["unet"], names.unet((1, 1, 1, 0), 1), names.LDM)
    return parts, {**network, **names.autoencoder(parts["vae"]), **words, **last}


def sdxl() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Parts of a model like Stable Diffusion XL, and the weights of its file."""
    parts = {
        "unet": unet(
            (32, 64, 64), (0, 2, 3), 3, cross_attention_dim=192, attention_head_dim=(1, 1, 1), sample_size=128,
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=6 * 256 + 96,
        ),
        "vae": vae(scaling_factor=0.13025),
        "text_encoder": text(64, 3, hidden_act="quick_gelu"),
        "text_encoder_2": text(128, 4, projection=96),
    }  # fmt: skip
    return parts, {
        **names.renamed(parts["unet"], names.unet((0, 2, 3), 3), names.LDM),
        **names.autoencoder(parts["vae"]),
        **names.clip(parts["text_encoder"], "conditioner.embedders.0.transformer."),
        **names.open_clip(parts["text_encoder_2"], "conditioner.embedders.1.model."),
    }


def sdxl_refiner() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Parts of a model like Stable Diffusion XL's refiner, and the weights of its file."""
    parts = {
        "unet": unet(
            (32, 64, 64, 64), (0, 2, 2, 0), 2, cross_attention_dim=128, attention_head_dim=(1, 1, 1, 1),
            sample_size=128, use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=5 * 256 + 96,
        ),
        "vae": vae(scaling_factor=0.13025),
        "text_encoder_2": text(128, 4, projection=96),
    }  # fmt: skip
    return parts, {
        **names.renamed(parts["unet"], names.unet((0, 2, 2, 0), 2), names.LDM),
        **names.autoencoder(parts["vae"]),
        **names.open_clip(parts["text_encoder_2"], "conditioner.embedders.0.model."),
    }


def sd3() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Parts of a model like Stable Diffusion 3.5, and the weights of its file."""
    from diffusers import SD3Transformer2DModel

    parts = {
        "transformer": randomise(
            SD3Transformer2DModel(
                sample_size=16, num_layers=3, num_attention_heads=2, attention_head_dim=64, joint_attention_dim=192,
                caption_projection_dim=128, pooled_projection_dim=64 + 128, pos_embed_max_size=16,
                dual_attention_layers=(0,), qk_norm="rms_norm",
            )
        ),
        "vae": vae(**FLOW_VAE, scaling_factor=1.5305, shift_factor=0.0609),
        "text_encoder": text(64, 2, projection=64, hidden_act="quick_gelu"),
        "text_encoder_2": text(128, 3, projection=128),
        "text_encoder_3": t5("T5", 32128, 192),
    }  # fmt: skip
    return parts, {
        **names.sd3(parts["transformer"]),
        **names.autoencoder(parts["vae"]),
        **names.clip(parts["text_encoder"], "text_encoders.clip_l.transformer."),
        **names.clip(parts["text_encoder_2"], "text_encoders.clip_g.transformer."),
        **names.t5(parts["text_encoder_3"], "text_encoders.t5xxl.transformer."),
    }


def flux_network(guided: bool = True) -> Any:
    """A network like Flux's; guided: dev, else schnell."""
    from diffusers import FluxTransformer2DModel

    return randomise(
        FluxTransformer2DModel(
            num_layers=2, num_single_layers=2, num_attention_heads=2, attention_head_dim=32, joint_attention_dim=48,
            pooled_projection_dim=64, guidance_embeds=guided, axes_dims_rope=(4, 14, 14),
        )
    )  # fmt: skip


def flux(guided: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Parts of a model like Flux, and the weights of its file with all of them."""
    parts = {
        "transformer": flux_network(guided),
        "vae": vae(**FLOW_VAE, scaling_factor=0.3611, shift_factor=0.1159),
        "text_encoder": text(64, 2, hidden_act="quick_gelu"),
        "text_encoder_2": t5("T5", 32128, 48),
    }  # fmt: skip
    return parts, {
        **names.flux(parts["transformer"], names.LDM),
        **names.autoencoder(parts["vae"], "vae."),
        **names.clip(parts["text_encoder"], "text_encoders.clip_l.transformer."),
        **names.t5(parts["text_encoder_2"], "text_encoders.t5xxl.transformer."),
    }


def save_directory(folder: Path, parts: dict[str, Any], family: str) -> Path:
    """The parts in diffusers' layout, with the shipped tokenizers; saved by diffusers and transformers."""
    shipped = Path(str(files("sigmafield"))) / "data" / "configs" / family
    folder.mkdir()
    (folder / "model_index.json").write_bytes((shipped / "model_index.json").read_bytes())
    for part, module in parts.items():
        module.save_pretrained(folder / part)
    for name, entry in json.loads((shipped / "model_index.json").read_text()).items():
        if name.startswith("tokenizer"):
            unpack(entry[1], folder / name, shipped / name / "tokenizer_config.json")
    levels = {"sd3": {"shift": 3.0}, "flux": {"shift": 3.0, "use_dynamic_shifting": True}}
    made = flow_scheduler(**levels[family]) if family in levels else scheduler("epsilon")
    made.save_pretrained(folder / "scheduler")
    return folder
