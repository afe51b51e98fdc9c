"""The modules of models/tiny against those of diffusers and transformers, with the same weights."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from sigmafield.models.tiny import load_tiny, read_module
from sigmafield.models.tiny.clip import CLIPText
from sigmafield.models.tiny.tokenizer import Tokenizer
from sigmafield.models.tiny.unet import UNet
from sigmafield.models.tiny.vae import VAE

pytest.importorskip("diffusers")
CPU, F32 = torch.device("cpu"), torch.float32

UNETS: dict[str, dict[str, Any]] = {
    "convolution projection": {},
    "linear projection, three levels, odd sizes": {
        "use_linear_projection": True,
        "block_out_channels": (16, 24, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "attention_head_dim": (1, 3, 4),
        "transformer_layers_per_block": (1, 1, 2),
    },
    "no attention but in the middle, two transformer blocks": {
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
    },
    "one level": {
        "block_out_channels": (16,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    },
    "sines first, shifted frequencies, other eps and channels": {
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-3,
        "in_channels": 3,
        "out_channels": 5,
    },
}
VAES: dict[str, dict[str, Any]] = {
    "mid attention": {},
    "no mid attention": {"mid_block_add_attention": False},
    "three levels of two layers": {
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 2,
        "latent_channels": 3,
    },
    "no quant convolutions": {"use_quant_conv": False, "use_post_quant_conv": False},
}


@pytest.mark.parametrize("changes", UNETS.values(), ids=UNETS)
def test_unet(changes: dict[str, Any], tmp_path: Path, small: ModuleType) -> None:
    theirs = small.unet(**changes)
    theirs.save_pretrained(tmp_path)
    ours = read_module(UNet, tmp_path, CPU, F32)
    x, text = torch.randn(2, theirs.config.in_channels, 10, 14), torch.randn(2, 5, 32)
    t = torch.tensor([999.0, 3.0])
    assert_close(ours(x, t, text), theirs(x, t, text).sample, atol=1e-5, rtol=0)


@pytest.mark.parametrize("changes", VAES.values(), ids=VAES)
def test_vae(changes: dict[str, Any], tmp_path: Path, small: ModuleType) -> None:
    theirs = small.vae(**changes)
    theirs.save_pretrained(tmp_path)
    ours = read_module(VAE, tmp_path, CPU, F32)
    x = torch.rand(2, 3, 16, 24) * 2 - 1
    z = theirs.encode(x).latent_dist.mean
    assert_close(ours.encode(x), z, atol=1e-5, rtol=0)
    assert_close(ours.decode(z), theirs.decode(z).sample, atol=1e-5, rtol=0)
    assert x.shape[-1] == ours.factor * z.shape[-1]


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip(activation: str, tmp_path: Path, small: ModuleType) -> None:
    theirs = small.clip(50, hidden_act=activation, layer_norm_eps=1e-3)
    theirs.save_pretrained(tmp_path)
    ids = torch.randint(0, 50, (3, 11))
    assert_close(read_module(CLIPText, tmp_path, CPU, F32)(ids), theirs(ids)[0], atol=1e-5, rtol=0)


def test_clip_reads_names_of_older_transformers(tmp_path: Path, small: ModuleType) -> None:
    from safetensors.torch import save_file

    theirs = small.clip(50)
    theirs.save_pretrained(tmp_path)
    old = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in theirs.state_dict().items()}
    save_file(old | {"text_model.embeddings.position_ids": torch.arange(16)[None]}, tmp_path / "model.safetensors")
    ids = torch.randint(0, 50, (1, 4))
    assert_close(read_module(CLIPText, tmp_path, CPU, F32)(ids), theirs(ids)[0], atol=1e-5, rtol=0)


def strings() -> list[str]:
    """A few thousand texts: handmade ones, and random ones of words, digits, marks and several scripts."""
    draw = random.Random(0)
    pieces = [
        *"abcABCxyzéÉßñÑÀøŒıİ0123456789²½Ⅻ٣一三日本語かなカナ한국어עבריתالعربيةहिन्दीไทยΣσςΩЖж_-–—.,;:!?'’\"#@&*()[]{}<>|/\\~^`+=%$€£¥",
        *[
            "'s",
            "'T",
            "'re",
            "'VE",
            "'m",
            "'ll",
            "'d",
            "''",
            "!!",
            "...",
            "<|",
            "|>",
            "</w>",
            "\ufb01",
            "e\u0301",
            "A\u030a",
        ],
        *["🍕", "❤️", "👩‍🚀", "🇫🇷", "\u200d", "\ufe0f", "\u00ad", "\x1c", "\x00", "\x7f", "\ufffd"],
        *[" ", " ", " ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000", "\u2003", "\x85"],
        *["red", "Heart", "astronaut", "riding", "horse", "photograph", "it's", "don't", "größe", "ñandú"],
        *["<|startoftext|>", "<|endoftext|>"],
    ]
    made = ["".join(draw.choices(pieces, k=draw.randint(1, 12))) for _ in range(3000)]
    return ["", " ", "a", "ΑΣ ΟΔΟΣ", "a" * 500, "1234567890", "word " * 50, *made]


def test_tokenizer(tmp_path: Path, small: ModuleType) -> None:
    pytest.importorskip("transformers", minversion="5")  # before, a final sigma was lowered in another way
    theirs, _ = small.tokenizer(tmp_path, length=16)
    ours, texts = Tokenizer(tmp_path), strings()
    for text, ids in zip(texts, theirs(texts, add_special_tokens=False).input_ids, strict=True):
        assert ours.ids(text) == ids, repr(text)


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_special_tokens(pad: str, tmp_path: Path, small: ModuleType) -> None:
    theirs, _ = small.tokenizer(tmp_path, length=16, pad=pad)
    ours = Tokenizer(tmp_path)
    assert [ours.bos, ours.eos, ours.pad] == [theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id]


@pytest.mark.parametrize("legacy", [True, False])
def test_tokenizer_reads_special_tokens_where_transformers_does(
    legacy: bool, tmp_path: Path, small: ModuleType
) -> None:
    from transformers import CLIPTokenizer

    small.write_tokenizer(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "!", "lstrip": False}}))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(config | ({} if legacy else {"added_tokens_decoder": {}}))
    )
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    assert Tokenizer(tmp_path).pad == theirs.pad_token_id
    assert (theirs.pad_token == "!") == legacy


def test_load_tiny_equals_diffusers(sd1: tuple[Path, Any]) -> None:
    folder, pipe = sd1
    before = torch.get_rng_state()
    ours = load_tiny(folder, CPU, F32)
    assert torch.equal(before, torch.get_rng_state())
    cond = ours.text.encode(["a red heart", ""], (16, 16))
    assert_close(cond.embeds, pipe.encode_prompt(["a red heart", ""], CPU, 1, False)[0], atol=1e-5, rtol=0)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([500.0, 7.0])
    assert_close(ours.model.network(x, t, cond), pipe.unet(x, t, cond.embeds).sample, atol=1e-5, rtol=0)
    images, scale = torch.rand(2, 3, 16, 16), pipe.vae.config.scaling_factor
    z = pipe.vae.encode(images * 2 - 1).latent_dist.mean * scale
    assert_close(ours.encode(images), z, atol=1e-5, rtol=0)
    want = (pipe.vae.decode(z / scale).sample / 2 + 0.5).clamp(0, 1)
    assert_close(ours.decode(z), want, atol=1e-5, rtol=0)
    assert (ours.model.name, ours.model.size, ours.model.latent.factor) == ("model", (16, 16), 2)


def test_missing_files_and_tokens_are_named(tmp_path: Path, small: ModuleType) -> None:
    small.write_tokenizer(tmp_path, pad="<pad>")
    with pytest.raises(ValueError, match="pad_token '<pad>' is not in vocab.json"):
        Tokenizer(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match="merges.txt is missing; it has tokenizer_config.json, vocab.json"):
        Tokenizer(tmp_path)


def test_sides_that_are_no_multiples_are_cut_at_both_ends(sd1: tuple[Path, Any]) -> None:
    """What is more than a multiple of 2 goes from the end, since half of 1 is rounded down, as in ComfyUI."""
    vae, images = load_tiny(sd1[0], CPU, F32).vae, torch.rand(1, 3, 9, 7)
    assert torch.equal(vae.encode(images), vae.encode(images[..., :8, :6]))
    wide = replace(vae, factor=4, encoder=lambda x: x)
    images = torch.rand(1, 3, 11, 14)
    assert torch.equal(wide.encode(images), images[..., 1:9, 1:13] * 2 - 1)


def test_codec_says_which_shapes_it_takes(sd1: tuple[Path, Any]) -> None:
    ours = load_tiny(sd1[0], CPU, F32)
    with pytest.raises(
        ValueError, match=r"images must be \[B, 3, H, W\] with H and W of at least 2; got shape \(1, 3, 1, 4\)"
    ):
        ours.encode(torch.zeros(1, 3, 1, 4))
    with pytest.raises(ValueError, match=r"latents must be \[B, 4, h, w\]; got shape \(1, 3, 4, 4\)"):
        ours.decode(torch.zeros(1, 3, 4, 4))


def test_of_an_image_of_any_size_the_middle_is_encoded(sd1: tuple[Path, Any]) -> None:
    ours = load_tiny(sd1[0], CPU, F32)
    images = torch.rand(1, 3, 9, 11)
    assert torch.equal(ours.encode(images), ours.encode(images[..., :8, :10]))  # half a pixel is cut on the far side
    wide = torch.nn.functional.pad(images[..., :8, :10], (0, 1))
    assert torch.equal(ours.encode(wide), ours.encode(images[..., :8, :10]))


@pytest.mark.parametrize(
    "module, key, value, message",
    [
        (UNet, "act_fn", "gelu", "config: act_fn = 'gelu' is not supported; supported: 'silu'"),
        (UNet, "down_block_types", ["A", "DownBlock2D"], "'A' is not supported; supported: 'DownBlock2D', 'CrossAttn"),
        (UNet, "up_block_types", ["UpBlock2D"], "up_block_types = .* must have 2 entries, one per level"),
        (UNet, "attention_head_dim", [1, 2, 3], r"attention_head_dim = \(1, 2, 3\) must be one number, or 2"),
        (UNet, "addition_embed_type", "text_time", "'text_time' is not supported; supported: None"),
        (UNet, "act_fm", "silu", "unknown key 'act_fm' = 'silu'; did you mean act_fn"),
        (VAE, "latents_mean", [0.0], r"latents_mean = \[0.0\] is not supported; supported: None"),
        (VAE, "up_block_types", ["UpDecoderBlock2D", "A"], "up_block_types = .*'A'.* is not supported"),
        (CLIPText, "hidden_act", "relu", "hidden_act = 'relu' is not supported; supported: 'quick_gelu', 'gelu'"),
        (CLIPText, "hidden_size", 64, "weights are missing, .* first is embeddings.position_embedding.weight"),
        (CLIPText, "num_hidden_layers", 2, "16 weights are missing, .* first is encoder.layers.2.layer_norm1.bias"),
        (CLIPText, "num_hidden_layers", 4, "16 weights are missing, .* first is encoder.layers.3.layer_norm1.bias"),
    ],
)
def test_refusals(module: Any, key: str, value: Any, message: str, tmp_path: Path, small: ModuleType) -> None:
    {UNet: small.unet, VAE: small.vae, CLIPText: lambda: small.clip(50)}[module]().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ValueError, match=message) as caught:
        read_module(module, tmp_path, CPU, F32)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype, sd1: tuple[Path, Any]) -> None:
    half, full = load_tiny(sd1[0], CPU, dtype), load_tiny(sd1[0], CPU, F32)
    cond = full.text.encode(["a red heart"], (16, 16))
    assert_close(half.text.encode(["a red heart"], (16, 16)).embeds, cond.embeds, atol=0.2, rtol=0)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500.0])
    assert_close(half.model.network(x, t, cond), full.model.network(x, t, cond), atol=0.2, rtol=0)
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(half.encode(images), full.encode(images))  # force_upcast
