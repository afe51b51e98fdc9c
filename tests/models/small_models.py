"""Small models with random weights, saved by diffusers and transformers themselves. No network is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

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
    """A UNet that is told a pooled vector and some numbers besides the text, as Stable Diffusion XL's are."""
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
    randomise(AutoencoderTiny()).save_pretrained(folder / "taesd")
    for name in ("edges", "depth", "photo", "mask"):
        Image.effect_noise((PIXELS, PIXELS), 90).save(folder / f"{name}.png")
