"""Small models of LTX and Hunyuan with random weights, saved by diffusers and transformers themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from recent_models import language, qwen_vl, qwen_words
from small_models import clip, flow_scheduler, randomise, t5, tokenizer, words


def normalised(vae: Any) -> Any:
    """A VAE of LTX with random weights and other numbers for each channel of its latents."""
    vae.latents_mean += torch.linspace(-0.5, 0.5, len(vae.latents_mean))
    vae.latents_std *= torch.linspace(0.5, 2.0, len(vae.latents_std))
    return randomise(vae)


def ltx_vae(new: bool) -> Any:
    """An autoencoder of diffusers: LTX-Video's; new: since 0.9.5, whose decoder takes a time."""
    from diffusers import AutoencoderKLLTXVideo

    if not new:
        sizes = {"block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
        layers = {"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5}
        return normalised(AutoencoderKLLTXVideo(**sizes, **layers))
    vae = AutoencoderKLLTXVideo(
        block_out_channels=(8, 8, 8, 8, 8), down_block_types=("LTXVideo095DownBlock3D",) * 4,
        decoder_block_out_channels=(8, 16, 32), layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 4,
        spatio_temporal_scaling=(True,) * 4, decoder_spatio_temporal_scaling=(True,) * 3,
        decoder_inject_noise=(False,) * 4, downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        upsample_residual=(True,) * 3, upsample_factor=(2,) * 3, timestep_conditioning=True,
        spatial_compression_ratio=32, temporal_compression_ratio=8,
    )  # fmt: skip
    return normalised(vae)


def ltx_levels() -> Any:
    """A scheduler with the settings of LTX's."""
    return flow_scheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096,
        shift_terminal=0.1,
    )  # fmt: skip


def save_ltx(folder: Path, causal: bool) -> Any:
    """A pipeline like LTX-Video's, also saved to the folder; causal: as since 0.9.5, else as 0.9."""
    from diffusers import LTXConditionPipeline, LTXPipeline, LTXVideoTransformer3DModel

    a, size = words(folder / "a")
    network = LTXVideoTransformer3DModel(
        num_attention_heads=32, attention_head_dim=2, cross_attention_dim=64,
        num_layers=1, caption_channels=32,
    )  # fmt: skip
    kind, levels = (LTXConditionPipeline, flow_scheduler()) if causal else (LTXPipeline, ltx_levels())
    pipe = kind(
        scheduler=levels, vae=ltx_vae(causal), text_encoder=t5("T5", size), tokenizer=a, transformer=randomise(network)
    )
    pipe.save_pretrained(folder / "model")
    return pipe


def gemma3(vocab: int) -> Any:
    """A text encoder of transformers: Gemma 3, that sees."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    sight = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    config = Gemma3Config(text_config=language(vocab), vision_config=sight, mm_tokens_per_image=4)
    return randomise(Gemma3ForConditionalGeneration(config))


def save_ltx2(folder: Path) -> Any:
    """A pipeline like LTX-2's, also saved to the folder."""
    from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2Pipeline, LTX2VideoTransformer3DModel
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors

    a, size = words(folder / "a", "GemmaTokenizerFast")
    sound: dict[str, Any] = {
        "base_channels": 4, "output_channels": 2, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": None,
        "in_channels": 2, "resolution": 32, "latent_channels": 2, "mid_block_add_attention": False, "mel_bins": 8,
    }  # fmt: skip
    vae = AutoencoderKLLTX2Video(
        latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 4, spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )  # fmt: skip
    heads = {
        f"{kind}_connector_{name}": n
        for kind in ("video", "audio")
        for name, n in (
            ("num_attention_heads", 4), ("attention_head_dim", 8), ("num_layers", 1), ("num_learnable_registers", 8),
        )
    }  # fmt: skip
    network = LTX2VideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
        audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2, audio_attention_head_dim=8,
        audio_cross_attention_dim=16, num_layers=1, caption_channels=32,
    )  # fmt: skip
    pipe = LTX2Pipeline(
        scheduler=ltx_levels(), vae=normalised(vae), audio_vae=randomise(AutoencoderKLLTX2Audio(**sound)),
        text_encoder=gemma3(size), tokenizer=a,
        connectors=randomise(LTX2TextConnectors(caption_channels=32, text_proj_in_factor=3, **heads)),
        transformer=randomise(network), vocoder=None,
    )  # fmt: skip
    pipe.save_pretrained(folder / "model")
    return pipe


def save_hunyuan_video(folder: Path) -> Any:
    """A pipeline like HunyuanVideo's, also saved to the folder."""
    from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoPipeline, HunyuanVideoTransformer3DModel
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
    from transformers import LlamaConfig, LlamaModel

    a, size = words(folder / "a", "LlamaTokenizerFast", corpus=[DEFAULT_PROMPT_TEMPLATE["template"]], size=420)
    a.padding_side = "right"
    b, size_b = tokenizer(folder / "b", length=77)
    network = HunyuanVideoTransformer3DModel(
        num_attention_heads=2, attention_head_dim=32, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, text_embed_dim=32, pooled_projection_dim=32, rope_axes_dim=(4, 14, 14),
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo(block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=4)
    pipe = HunyuanVideoPipeline(
        text_encoder=randomise(LlamaModel(LlamaConfig(**language(size, layers=3)))), tokenizer=a,
        transformer=randomise(network), vae=randomise(vae), scheduler=flow_scheduler(shift=7.0),
        text_encoder_2=clip(size_b, max_position_embeddings=77), tokenizer_2=b,
    )  # fmt: skip
    pipe.save_pretrained(folder / "model")
    return pipe


def byt5() -> tuple[Any, Any]:
    """A text encoder of transformers that reads bytes, and its tokenizer."""
    from transformers import ByT5Tokenizer

    return t5("T5", 384), ByT5Tokenizer()


def save_hunyuan_image(folder: Path) -> Any:
    """A pipeline like HunyuanImage's, also saved to the folder."""
    from diffusers import AutoencoderKLHunyuanImage, HunyuanImagePipeline, HunyuanImageTransformer2DModel

    (a, size), (text, b) = qwen_words(folder / "a"), byt5()
    a.padding_side = "right"
    network = HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, text_embed_dim=32, text_embed_2_dim=32, rope_axes_dim=(8, 8),
    )  # fmt: skip
    vae = AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32, 32), layers_per_block=1,
        spatial_compression_ratio=4, sample_size=16, scaling_factor=0.75289,
    )  # fmt: skip
    pipe = HunyuanImagePipeline(
        scheduler=flow_scheduler(shift=5.0), vae=randomise(vae), text_encoder=qwen_vl(size, a), tokenizer=a,
        text_encoder_2=text, tokenizer_2=b, transformer=randomise(network),
    )  # fmt: skip
    pipe.save_pretrained(folder / "model")
    return pipe


def save_hunyuan15(folder: Path) -> Any:
    """A pipeline like HunyuanVideo 1.5's, also saved to the folder."""
    from diffusers import AutoencoderKLHunyuanVideo15, HunyuanVideo15Pipeline, HunyuanVideo15Transformer3DModel
    from diffusers.guiders import ClassifierFreeGuidance

    (a, size), (text, b) = qwen_words(folder / "a"), byt5()
    a.padding_side = "right"
    network = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_refiner_layers=1,
        text_embed_dim=32, text_embed_2_dim=32, image_embed_dim=20, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(8,) * 4, layers_per_block=1, spatial_compression_ratio=8
    )
    pipe = HunyuanVideo15Pipeline(
        text_encoder=qwen_vl(size, a).model.language_model, tokenizer=a, transformer=randomise(network),
        vae=randomise(vae), scheduler=flow_scheduler(shift=7.0), text_encoder_2=text, tokenizer_2=b,
        guider=ClassifierFreeGuidance(guidance_scale=3.0),
    )  # fmt: skip
    pipe.save_pretrained(folder / "model")
    return pipe
