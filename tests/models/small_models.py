"""Small models with random weights, saved by diffusers and transformers themselves. No network is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from ip_adapter_files import save_adapter, save_encoder

CORPUS = [
    "a photograph of an astronaut riding a horse",
    "the red heart, the green heart; it's 1999!",
    "日本語 ñandú größe",
]
PIXELS = 16


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module with all weights random, so that no two norms are alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return module.eval().requires_grad_(False)


def write_tokenizer(folder: Path, length: int = 16, pad: str = "<|endoftext|>") -> int:
    """vocab.json, merges.txt and tokenizer_config.json of a small byte-level BPE; returns the vocabulary's size."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=700, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(CORPUS * 3, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    symbols = alphabet + [a + "</w>" for a in alphabet] + [a + b for a, b in merges]
    vocab = {s: i for i, s in enumerate(dict.fromkeys([*symbols, "<|startoftext|>", "<|endoftext|>"]))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n", "utf-8")
    config = {"model_max_length": length, "pad_token": pad, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(vocab)


def clip(vocab: int, width: int = 32, projection: int | None = None, **changes: Any) -> Any:
    """A text encoder of transformers, with a projection of the pooled vector if asked for."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    settings: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "projection_dim": projection or width,
        "bos_token_id": vocab - 2,
        "eos_token_id": vocab - 1,
    }
    config = CLIPTextConfig(**settings | changes)
    return randomise((CLIPTextModelWithProjection if projection else CLIPTextModel)(config))


def unet(**changes: Any) -> Any:
    """A UNet of diffusers."""
    from diffusers import UNet2DConditionModel

    settings: dict[str, Any] = {
        "sample_size": PIXELS // 2,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return randomise(UNet2DConditionModel(**settings | changes))


def vae(**changes: Any) -> Any:
    """An autoencoder of diffusers."""
    from diffusers import AutoencoderKL

    settings: dict[str, Any] = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "sample_size": PIXELS,
        "force_upcast": False,
    }
    return randomise(AutoencoderKL(**settings | changes))


def scheduler(prediction: str, **changes: Any) -> Any:
    """Stable Diffusion's noise levels, for a prediction."""
    from diffusers import EulerDiscreteScheduler

    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return EulerDiscreteScheduler(
        **settings | {"timestep_spacing": "trailing", "prediction_type": prediction} | changes
    )


def tokenizer(folder: Path, **changes: Any) -> tuple[Any, int]:
    """A tokenizer of transformers and the size of its vocabulary."""
    from transformers import CLIPTokenizer

    size = write_tokenizer(folder, **changes)
    return CLIPTokenizer.from_pretrained(folder), size


def save_sd(folder: Path, network: Any, autoencoder: Any, prediction: str, **levels: Any) -> Any:
    """A pipeline of Stable Diffusion 1 or 2, also saved to the folder."""
    from diffusers import StableDiffusionPipeline

    words, size = tokenizer(folder / "words")
    pipe = StableDiffusionPipeline(
        autoencoder,
        clip(size),
        words,
        network,
        scheduler(prediction, **levels),
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder / "model")
    write_tokenizer(folder / "model" / "tokenizer")  # transformers 5 writes a tokenizer.json alone
    return pipe


def control_net(network: Any, seed: int = 1) -> Any:
    """A ControlNet of diffusers for a UNet of a VAE that halves sides, with random weights."""
    from diffusers import ControlNetModel

    side = ControlNetModel.from_unet(network, conditioning_embedding_out_channels=(8, 16), load_weights_from_unet=False)
    return randomise(side, seed)


def adapter(kind: str = "full_adapter", seed: int = 1, **changes: Any) -> Any:
    """A T2I-Adapter of diffusers for the same UNets."""
    from diffusers import T2IAdapter

    settings = {"channels": [16, 32], "num_res_blocks": 1, "downscale_factor": 2, "adapter_type": kind}
    return randomise(T2IAdapter(**settings | changes), seed)


def control_union(network: Any) -> Any:
    """A ControlNet of diffusers that reads hints of six kinds."""
    from diffusers import ControlNetUnionModel

    names = (
        "block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim", "attention_head_dim",
        "norm_num_groups",
    )  # fmt: skip
    settings: dict[str, Any] = {name: network.config[name] for name in names}
    settings |= {"conditioning_embedding_out_channels": (8, 16), "num_trans_head": 2, "num_trans_channel": 16}
    settings |= {"num_control_type": 6, "num_proj_channel": 16, "addition_time_embed_dim": 4}
    return randomise(ControlNetUnionModel(**settings))


def xl_unet(width: int, numbers: int) -> Any:
    """A UNet that takes a pooled vector and some numbers in addition to the text, as Stable Diffusion XL's are."""
    return unet(
        cross_attention_dim=width,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=numbers * 4 + 20,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )


def save_xl(folder: Path) -> Any:
    """A pipeline of Stable Diffusion XL, also saved to the folder."""
    from diffusers import StableDiffusionXLPipeline

    words, size = tokenizer(folder / "words")
    words_2, _ = tokenizer(folder / "words_2", pad="!")
    second = clip(size, 24, projection=20, hidden_act="gelu")
    network = xl_unet(32 + 24, 6)
    pipe = StableDiffusionXLPipeline(vae(), clip(size), second, words, words_2, network, scheduler("epsilon"))
    pipe.save_pretrained(folder / "model")
    return pipe


def save_refiner(folder: Path) -> Any:
    """A pipeline of Stable Diffusion XL's refiner, also saved to the folder."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    words, size = tokenizer(folder / "words", pad="!")
    text = clip(size, 24, projection=20, hidden_act="gelu")
    pipe = StableDiffusionXLImg2ImgPipeline(
        vae(), None, text, None, words, xl_unet(24, 5), scheduler("epsilon"), requires_aesthetics_score=True
    )
    pipe.save_pretrained(folder / "model")
    return pipe


def write_page(folder: Path) -> None:
    """The files that docs/control.md speaks of, small and random, at the names that it calls them."""
    from diffusers import AutoencoderTiny
    from PIL import Image

    plain = save_sd(folder / "sd", unet(), vae(), "epsilon")
    save_sd(folder / "inpainting", unet(in_channels=9), vae(), "epsilon")
    save_xl(folder / "xl")
    save_refiner(folder / "refiner")
    names = {"sd": "stable-diffusion-v1-5", "inpainting": "stable-diffusion-inpainting"}
    for made, name in {**names, "xl": "stable-diffusion-xl-base", "refiner": "stable-diffusion-xl-refiner"}.items():
        (folder / made / "model").rename(folder / name)
    control_net(plain.unet).save_pretrained(folder / "sd-controlnet-canny")
    adapter().save_pretrained(folder / "t2iadapter-depth")
    save_adapter(folder / "ip-adapter_sd15.safetensors", plain.unet)
    save_encoder(folder / "image_encoder.safetensors")
    randomise(AutoencoderTiny()).save_pretrained(folder / "taesd")
    for name in ("edges", "depth", "photo", "mask"):
        Image.effect_noise((PIXELS, PIXELS), 90).save(folder / f"{name}.png")


def write_words(folder: Path, kind: str, corpus: list[str] = CORPUS, size: int = 400) -> int:
    """The tokenizer.json of a small tokenizer of a class of transformers; returns the vocabulary's size."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    folder.mkdir(parents=True, exist_ok=True)
    pad, end, unknown, begin = "<pad>", "</s>", "<unk>", "<bos>"
    special = [pad, end, unknown, begin]
    if kind == "T5TokenizerFast":
        words = Tokenizer(models.Unigram())
        words.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token=unknown)
        words.train_from_iterator(CORPUS * 3, trainer)
        words.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 1)])
    else:
        words = Tokenizer(models.BPE(unk_token=unknown, fuse_unk=True, byte_fallback=True))
        words.normalizer = normalizers.Replace(" ", "▁")
        pieces = special + [f"<0x{byte:02X}>" for byte in range(256)]
        words.train_from_iterator(corpus * 3, trainers.BpeTrainer(vocab_size=size, special_tokens=pieces))
        words.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 3)])
    words.save(str(folder / "tokenizer.json"))
    names = {"pad_token": pad, "eos_token": end, "unk_token": unknown, "bos_token": begin}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **names}))
    return words.get_vocab_size()


def words(folder: Path, kind: str = "T5TokenizerFast", **learned: Any) -> tuple[Any, int]:
    """A small tokenizer of a class of transformers and a size that holds its vocabulary."""
    import transformers

    size = write_words(folder, kind, **learned)
    return getattr(transformers, kind).from_pretrained(folder), size + 128


def t5(kind: str, vocab: int, width: int = 32) -> Any:
    """A text encoder of transformers: T5 or UMT5."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocab, d_model=width, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return randomise(getattr(transformers, f"{kind}EncoderModel")(config))


def gemma(vocab: int, width: int = 32) -> Any:
    """A text encoder of transformers: Gemma 2."""
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=vocab, hidden_size=width, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    return randomise(Gemma2Model(config))


def flow_scheduler(**settings: Any) -> Any:
    """A scheduler of rectified flows."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)


def save_sd3(folder: Path, long: bool = True) -> Any:
    """A pipeline like Stable Diffusion 3's, also saved to the folder; long: with T5."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    a, size = tokenizer(folder / "a")
    b, _ = tokenizer(folder / "b", pad="!")
    c, size_c = words(folder / "c") if long else (None, 0)
    network = SD3Transformer2DModel(
        sample_size=8, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=32 + 24, pos_embed_max_size=12,
        dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    pipe = StableDiffusion3Pipeline(
        randomise(network), flow_scheduler(shift=3.0), vae(latent_channels=16, shift_factor=0.06, scaling_factor=1.5),
        clip(size, 32, projection=32), a, clip(size, 24, projection=24, hidden_act="gelu"), b,
        t5("T5", size_c, 64) if long else None, c,
    )  # fmt: skip
    pipe.save_pretrained(folder / "model")
    return pipe


def save_flux(folder: Path, guided: bool, shown: int = 0) -> Any:
    """A pipeline like Flux's, also saved to the folder; guided: dev, else schnell; shown: further channels."""
    from diffusers import FluxPipeline, FluxTransformer2DModel

    a, size = tokenizer(folder / "a")
    b, size_b = words(folder / "b")
    network = FluxTransformer2DModel(
        in_channels=64 + 4 * shown, out_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=guided, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    levels = {"use_dynamic_shifting": True, "shift": 3.0} if guided else {"shift": 1.0}
    pipe = FluxPipeline(
        flow_scheduler(**levels), vae(latent_channels=16, shift_factor=0.1, scaling_factor=0.4), clip(size), a,
        t5("T5", size_b), b, randomise(network),
    )  # fmt: skip
    pipe.save_pretrained(folder / "model")
    return pipe


def save_auraflow(folder: Path) -> Any:
    """A pipeline like AuraFlow's, also saved to the folder."""
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel

    a, size = words(folder / "a", "LlamaTokenizerFast")
    network = AuraFlowTransformer2DModel(
        sample_size=8, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, pos_embed_max_size=144,
    )  # fmt: skip
    pipe = AuraFlowPipeline(a, t5("UMT5", size), vae(), randomise(network), flow_scheduler(shift=1.73))
    pipe.save_pretrained(folder / "model")
    return pipe


def save_lumina(folder: Path) -> Any:
    """A pipeline like Lumina 2's, also saved to the folder."""
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    a, size = words(folder / "a", "GemmaTokenizerFast")
    network = Lumina2Transformer2DModel(
        sample_size=8, in_channels=16, hidden_size=24, num_layers=2, num_refiner_layers=1, num_attention_heads=3,
        num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 2, 2), axes_lens=(300, 12, 12), cap_feat_dim=32,
    )  # fmt: skip
    autoencoder = vae(latent_channels=16, shift_factor=0.1, scaling_factor=0.4)
    pipe = Lumina2Pipeline(randomise(network), flow_scheduler(shift=6.0), autoencoder, gemma(size), a)
    pipe.vae_scale_factor = 2
    pipe.save_pretrained(folder / "model")
    return pipe


def save_wan(folder: Path) -> Any:
    """A pipeline like Wan 2.1's, also saved to the folder."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    a, size = words(folder / "a")
    network = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=32, freq_dim=16,
        ffn_dim=32, num_layers=2, rope_max_seq_len=32,
    )  # fmt: skip
    levels = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    autoencoder = randomise(AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1))
    pipe = WanPipeline(a, t5("UMT5", size), autoencoder, levels, randomise(network))
    pipe.save_pretrained(folder / "model")
    return pipe
