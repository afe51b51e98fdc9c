"""Small models of the families whose prompts a language model reads, saved by diffusers and transformers themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from small_models import clip, flow_scheduler, randomise, t5, tokenizer, vae, words

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
MISTRAL = (
    "<s>{% for m in messages %}{% if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content[0].text }}[/SYSTEM_PROMPT]"
    "{% else %}[INST]{{ m.content[0].text }}[/INST]{% endif %}{% endfor %}"
)


def qwen_words(folder: Path, template: str = QWEN) -> tuple[Any, int]:
    """A small tokenizer of the class of Qwen 2, 2.5 and 3, and a size that holds its vocabulary."""
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("r", "e"), ("re", "d"), ("h", "e"), ("t", "he")]
    vocab = {each: i for i, each in enumerate([*letters, *(a + b for a, b in merges)])}
    made = Qwen2Tokenizer(vocab=vocab, merges=merges, chat_template=template, padding_side="left")
    made.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    made.save_pretrained(folder)
    return made, len(vocab) + 16


def language(vocab: int, layers: int = 2, width: int = 32, heads: int = 2) -> dict[str, Any]:
    """Settings of a small language model."""
    return {
        "vocab_size": vocab, "hidden_size": width, "intermediate_size": 48, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": 1, "head_dim": width // heads,
        "max_position_embeddings": 2048,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip


def qwen3(vocab: int, layers: int = 3, width: int = 32) -> Any:
    """A text encoder of transformers: Qwen 3."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    turns = {"rope_type": "default", "rope_theta": 1e6}
    return randomise(Qwen3ForCausalLM(Qwen3Config(**language(vocab, layers, width), rope_parameters=turns)))


def qwen_vl(vocab: int, tokenizer: Any) -> Any:
    """A text encoder of transformers that sees, for a tokenizer's marks: Qwen 2.5 VL."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end", "image_pad")}
    turns = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e6}
    text = language(vocab, heads=1) | {"rope_parameters": turns}
    sight = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 1, "out_hidden_size": 32}
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=sight, image_token_id=ids["image_pad"], video_token_id=vocab - 1,
        vision_start_token_id=ids["vision_start"], vision_end_token_id=ids["vision_end"],
    )  # fmt: skip
    return randomise(Qwen2_5_VLForConditionalGeneration(config))


def mistral(vocab: int) -> Any:
    """A text encoder of transformers: Mistral Small, of as many layers as Flux 2 reads from."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig, PixtralVisionConfig

    text = MistralConfig(**language(vocab, layers=30, width=16))
    sight = PixtralVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = Mistral3Config(text_config=text, vision_config=sight, image_token_index=vocab - 1)
    return randomise(Mistral3ForConditionalGeneration(config))


def qwen_vae() -> Any:
    """An autoencoder of diffusers: Qwen-Image's."""
    from diffusers import AutoencoderKLQwenImage

    return randomise(AutoencoderKLQwenImage(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1))


def qwen_transformer() -> Any:
    """A network of diffusers: Qwen-Image's."""
    from diffusers import QwenImageTransformer2DModel

    network = QwenImageTransformer2DModel(
        num_layers=2, attention_head_dim=32, num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(4, 14, 14)
    )
    return randomise(network)


def qwen_levels() -> Any:
    """A scheduler with the settings of Qwen-Image's."""
    return flow_scheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )


def save_qwen(folder: Path) -> Any:
    """A pipeline like Qwen-Image's, also saved to the folder."""
    from diffusers import QwenImagePipeline

    a, size = qwen_words(folder / "a")
    pipe = QwenImagePipeline(qwen_levels(), qwen_vae(), qwen_vl(size, a), a, qwen_transformer())
    pipe.save_pretrained(folder / "model")
    return pipe


def save_z_image(folder: Path) -> Any:
    """A pipeline like Z-Image's, also saved to the folder."""
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    a, size = qwen_words(folder / "a")
    network = ZImageTransformer2DModel(
        dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32, axes_dims=[4, 6, 6],
        axes_lens=[1024, 16, 16],
    )  # fmt: skip
    autoencoder = vae(latent_channels=16, shift_factor=0.1, scaling_factor=0.4)
    pipe = ZImagePipeline(flow_scheduler(shift=3.0), autoencoder, qwen3(size), a, randomise(network))
    pipe.save_pretrained(folder / "model")
    return pipe


def save_flux2(folder: Path, guided: bool) -> Any:
    """A pipeline like Flux 2's, also saved to the folder; guided: dev, else klein."""
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Pipeline, Flux2Transformer2DModel

    a, size = qwen_words(folder / "a", MISTRAL if guided else QWEN)
    network = Flux2Transformer2DModel(
        num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=48,
        axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guided,
    )  # fmt: skip
    autoencoder = AutoencoderKLFlux2(
        block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=32, sample_size=64,
    )  # fmt: skip
    autoencoder.bn.running_mean += torch.linspace(-0.5, 0.5, 128)
    autoencoder.bn.running_var *= torch.linspace(0.5, 2.0, 128)
    levels = flow_scheduler(use_dynamic_shifting=True, shift=3.0)
    if guided:
        pipe = Flux2Pipeline(levels, randomise(autoencoder), mistral(size), a, randomise(network))
    else:
        text = qwen3(size, layers=27, width=16)
        pipe = Flux2KleinPipeline(levels, randomise(autoencoder), text, a, randomise(network), is_distilled=True)
    pipe.save_pretrained(folder / "model")
    return pipe


def save_chroma(folder: Path) -> Any:
    """A pipeline like Chroma's, also saved to the folder."""
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    a, size = words(folder / "a")
    network = ChromaTransformer2DModel(
        num_layers=1, num_single_layers=1, attention_head_dim=32, num_attention_heads=2, joint_attention_dim=32,
        axes_dims_rope=(4, 14, 14), approximator_num_channels=16, approximator_hidden_dim=24, approximator_layers=1,
    )  # fmt: skip
    autoencoder = vae(latent_channels=16, shift_factor=0.1, scaling_factor=0.4)
    pipe = ChromaPipeline(flow_scheduler(shift=1.0), autoencoder, t5("T5", size), a, randomise(network))
    pipe.save_pretrained(folder / "model")
    return pipe


def wan_transformer(channels: int, seed: int = 0, more: int = 0) -> Any:
    """A network of diffusers: Wan's, with `more` channels that it is shown."""
    from diffusers import WanTransformer3DModel

    network = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=channels + more, out_channels=channels,
        text_dim=32,
        freq_dim=16, ffn_dim=32, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip
    return randomise(network, seed)


def save_wan_experts(folder: Path, more: int = 0) -> Any:
    """A pipeline like Wan 2.2 14B's, of two networks, also saved to the folder; more: 20 for images to video."""
    from diffusers import AutoencoderKLWan, WanPipeline

    a, size = words(folder / "a")
    autoencoder = randomise(AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1))
    networks = wan_transformer(16, more=more), wan_transformer(16, seed=1, more=more)
    pipe = WanPipeline(a, t5("UMT5", size), autoencoder, flow_scheduler(shift=3.0), *networks, boundary_ratio=0.875)
    pipe.save_pretrained(folder / "model")
    return pipe


def save_wan_fine(folder: Path) -> Any:
    """A pipeline like Wan 2.2 5B's, whose network takes a level for each token, also saved to the folder."""
    from diffusers import AutoencoderKLWan, WanPipeline

    a, size = words(folder / "a")
    autoencoder = AutoencoderKLWan(
        base_dim=4, decoder_base_dim=4, z_dim=48, dim_mult=[1, 1, 1, 1], num_res_blocks=1, is_residual=True,
        in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16, latents_mean=[0.1] * 48,
        latents_std=[1.5] * 48,
    )  # fmt: skip
    pipe = WanPipeline(
        a, t5("UMT5", size), randomise(autoencoder), flow_scheduler(shift=5.0), wan_transformer(48),
        expand_timesteps=True,
    )  # fmt: skip
    pipe.save_pretrained(folder / "model")
    return pipe


def save_wan_vace(folder: Path) -> Any:
    """A pipeline like Wan VACE's, also saved to the folder."""
    from diffusers import AutoencoderKLWan, WanVACEPipeline, WanVACETransformer3DModel

    a, size = words(folder / "a")
    autoencoder = randomise(AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1))
    network = WanVACETransformer3DModel(
        num_attention_heads=1, attention_head_dim=24, text_dim=32, freq_dim=16, ffn_dim=32, num_layers=4,
        rope_max_seq_len=32, vace_layers=[0, 2],
    )  # fmt: skip
    pipe = WanVACEPipeline(a, t5("UMT5", size), autoencoder, flow_scheduler(shift=3.0), randomise(network))
    pipe.save_pretrained(folder / "model")
    return pipe


SEEING = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content[0].text }}<|im_end|>\n{% endfor %}"


def qwen3_vl(vocab: int, tokenizer: Any) -> Any:
    """A text encoder of transformers that sees, for a tokenizer's marks: Qwen 3 VL."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end", "image_pad")}
    turns = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    sight = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 1, "out_hidden_size": 32, "patch_size": 16,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    config = Qwen3VLConfig(
        text_config=language(vocab, heads=1) | {"rope_parameters": turns}, vision_config=sight,
        image_token_id=ids["image_pad"], video_token_id=vocab - 1, vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )  # fmt: skip
    return randomise(Qwen3VLForConditionalGeneration(config))


def qwen21_vae() -> Any:
    """An autoencoder of diffusers: Qwen-Image 2.1's."""
    from diffusers import AutoencoderKLQwenImage21

    return randomise(AutoencoderKLQwenImage21(base_dim=4, decoder_base_dim=4))


def qwen21_transformer() -> Any:
    """A network of diffusers: Qwen-Image 2.1's."""
    from diffusers import QwenImage21Transformer2DModel

    network = QwenImage21Transformer2DModel(
        num_layers=2, attention_head_dim=32, num_attention_heads=2, context_in_dim=32, axes_dims_rope=(4, 14, 14)
    )
    return randomise(network)


def save_qwen21(folder: Path) -> Any:
    """A pipeline like Qwen-Image 2.1's, also saved to the folder."""
    from diffusers import QwenImage21Pipeline
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor

    class WithoutVideos(Qwen3VLProcessor):
        """The processor of texts and images; the one of videos needs torchvision."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return type(argument)

    a, size = qwen_words(folder / "a")
    images = Qwen2VLImageProcessor(patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    levels = flow_scheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    parts = {
        "scheduler": levels, "vae": qwen21_vae(), "text_encoder": qwen3_vl(size, a), "transformer": qwen21_transformer()
    }  # fmt: skip
    for name, part in {**parts, "processor": a}.items():
        part.save_pretrained(folder / "model" / name)
    kinds = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    index = {"_class_name": "QwenImage21Pipeline", **kinds, "processor": ["transformers", "Qwen3VLProcessor"]}
    (folder / "model" / "model_index.json").write_text(json.dumps(index))
    return QwenImage21Pipeline(processor=WithoutVideos(images, a, chat_template=SEEING), **parts)


def llama(vocab: int, layers: int = 2) -> Any:
    """A text encoder of transformers: Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return randomise(LlamaForCausalLM(LlamaConfig(**language(vocab, layers, heads=1))))


def save_hidream(folder: Path) -> Any:
    """A pipeline like HiDream-I1's, also saved to the folder."""
    from diffusers import HiDreamImagePipeline, HiDreamImageTransformer2DModel

    a, size = tokenizer(folder / "a", length=248)
    b, _ = tokenizer(folder / "b", length=248, pad="!")
    c, size_c = words(folder / "c")
    d, size_d = words(folder / "d", "LlamaTokenizerFast")
    network = HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        caption_channels=[32, 32], text_emb_dim=32 + 24, axes_dims_rope=(8, 4, 4), max_resolution=(12, 12),
        llama_layers=[0, 1, 1],
    )  # fmt: skip
    pipe = HiDreamImagePipeline(
        flow_scheduler(shift=3.0), vae(latent_channels=16, shift_factor=0.1, scaling_factor=0.4),
        clip(size, 32, projection=32, max_position_embeddings=248), a,
        clip(size, 24, projection=24, max_position_embeddings=248, hidden_act="gelu"), b, t5("T5", size_c), c,
        llama(size_d), d, randomise(network),
    )  # fmt: skip
    pipe.save_pretrained(folder / "model")
    return pipe


def wan_fun(channels: int, out: int, reference: bool, **more: Any) -> Any:
    """A network of Wan Fun-Control, of one head, that reads and gives this many channels."""
    from diffusers import WanTransformer3DModel

    from sigmafield.models.diffusers.wan_fun import WanFunTransformer3DModel

    kind = WanFunTransformer3DModel if reference else WanTransformer3DModel
    settings = {"attention_head_dim": 24, "text_dim": 32, "freq_dim": 16, "ffn_dim": 32, "num_layers": 1}
    return randomise(kind(num_attention_heads=1, in_channels=channels, out_channels=out, **settings | more))
