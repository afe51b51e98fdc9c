"""Small split files of the recent families, with random weights, by the names that ComfyUI's templates give them."""

from __future__ import annotations

import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import original_models
import original_names
import recent_models
import torch
from recent_names import flux2_vae, in_published_names, spiece, wan_name
from small_models import clip, randomise, t5, write_words
from torch import Tensor
from transformers import AutoTokenizer

from sigmafield.models.single_file.tokenizers import unpack

WORDS = 151936
"""Words of Qwen's language models."""
FAMILIES = {
    "qwen_image": recent_models.save_qwen,
    "qwen_image_2.1": recent_models.save_qwen21,
    "z_image": recent_models.save_z_image,
    "flux2": lambda folder: recent_models.save_flux2(folder, guided=False),
    "wan": recent_models.save_wan_experts,
    "hidream": recent_models.save_hidream,
    "chroma": recent_models.save_chroma,
}
"""Makers of pipelines by the families of templates."""
OF_WAN = {
    "vace": recent_models.save_wan_vace,
    "5b": recent_models.save_wan_fine,
    "i2v": lambda folder: recent_models.save_wan_experts(folder, more=20),
    "flf2v": lambda folder: recent_models.save_wan_experts(folder, more=20),
}
"""Makers of pipelines of Wan by what is in the name of a file, the more special ones first."""
FUN = {"fun 2.1": (48, 16, False), "fun 2.2": (52, 16, True), "fun 5b": (148, 48, True)}
"""Channels that networks of Fun-Control read and give, and whether they are shown a reference image."""


@cache
def network(family: str, kind: str = "") -> Any:
    """A small network of a family; kind: one of `OF_WAN` or `FUN`, or any."""
    if kind in FUN:
        return recent_models.wan_fun(*FUN[kind])
    make = OF_WAN.get(kind, FAMILIES[family])
    with tempfile.TemporaryDirectory() as folder:
        return make(Path(folder)).transformer


def tensors(family: str, key: str, name: str) -> dict[str, Tensor]:
    """The tensors of a file that a node's input names."""
    name = name.lower()
    if key == "vae_name":
        return autoencoder(family, name)
    if key.startswith("clip_name"):
        return text_encoder(family, name)
    kind = next((kind for kind in OF_WAN if kind in name), "")
    if "fun_control" in name:
        kind = next(kind for kind in ("fun 5b", "fun 2.2", "fun 2.1") if kind.split()[1] in name)
    named = in_published_names(network(family, kind if family == "wan" else ""))
    if key == "lora_name":
        layer, weight = next((k.removesuffix(".weight"), v) for k, v in named.items() if "attn" in k and v.ndim == 2)
        up, down = torch.ones(weight.shape[0], 1), torch.ones(1, weight.shape[1])
        return {f"diffusion_model.{layer}.lora_A.weight": down, f"diffusion_model.{layer}.lora_B.weight": up}
    return named


def text_encoder(family: str, name: str) -> dict[str, Tensor]:
    """A text encoder of a family: a language model with Qwen's words, UMT5 with a tokenizer, or one of HiDream's."""
    if family == "wan":
        state = t5("UMT5", 16).state_dict()
        marks = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<s>", 0.0, 3), ("<unk>", 0.0, 2)]
        words = torch.tensor(list(spiece([*marks, ("▁", -1.0, 1), ("e", -2.0, 1)])), dtype=torch.uint8)
        return {"spiece_model": words, **{k: v for k, v in state.items() if "embed_tokens" not in k}}
    if family == "hidream":
        return of_hidream(name)
    if family == "chroma":
        return of_hidream("t5")
    if family.startswith("qwen_image"):
        words = AutoTokenizer.from_pretrained(shipped_words())
        make = recent_models.qwen_vl if family == "qwen_image" else recent_models.qwen3_vl
        state = make(WORDS, words).state_dict()
        visual = {k.replace("model.visual.", "visual."): v for k, v in state.items()}
        return {k.replace("model.language_model.", "model."): v for k, v in visual.items()}
    if family == "flux2":
        return recent_models.qwen3(WORDS, layers=27, width=16).state_dict()
    return recent_models.qwen3(WORDS).state_dict()


def of_hidream(name: str) -> dict[str, Tensor]:
    """One of the four text encoders of HiDream, of which Chroma has T5; Llama's holds a tokenizer."""
    if "t5" in name:
        return {k: v for k, v in t5("T5", 32128).state_dict().items() if "embed_tokens" not in k}
    if "llama" in name:
        with tempfile.TemporaryDirectory() as folder:
            size = write_words(Path(folder), "LlamaTokenizerFast")
            words = (Path(folder) / "tokenizer.json").read_text()
        words = words.replace("</s>", "<|eot_id|>").replace("<bos>", "<|begin_of_text|>")
        held = torch.tensor(list(words.encode()), dtype=torch.uint8)
        return {"tokenizer_json": held, **recent_models.llama(size, layers=3).state_dict()}
    width = 32 if "clip_l" in name else 48
    return clip(49408, width, projection=32 if width == 32 else 24, max_position_embeddings=248).state_dict()


def shipped_words() -> Path:
    """A folder with Qwen's tokenizer."""
    config = Path(str(files("sigmafield"))) / "data" / "configs" / "qwen_image" / "tokenizer" / "tokenizer_config.json"
    return unpack("Qwen2Tokenizer", Path(tempfile.mkdtemp()), config)


def autoencoder(family: str, name: str) -> dict[str, Tensor]:
    """The VAE of a family."""
    from diffusers import AutoencoderKLFlux2, AutoencoderKLWan

    if name == "ae.safetensors":
        return original_names.autoencoder(original_models.flux(False)[0]["vae"], "")
    if family == "qwen_image_2.1":
        return recent_models.qwen21_vae().state_dict()
    if family == "flux2":
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        return flux2_vae(randomise(AutoencoderKLFlux2(block_out_channels=(32,) * 4, norm_num_groups=32, **blocks)))
    if "2.2" in name:
        module = AutoencoderKLWan(
            base_dim=4, decoder_base_dim=4, z_dim=48, is_residual=True, in_channels=12, out_channels=12, patch_size=2,
            scale_factor_spatial=16, latents_mean=[0.0] * 48, latents_std=[1.0] * 48,
        )  # fmt: skip
        return {wan_name(k, nested=True): v for k, v in randomise(module).state_dict().items()}
    return {wan_name(k): v for k, v in randomise(AutoencoderKLWan(base_dim=4)).state_dict().items()}
