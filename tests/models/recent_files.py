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
from small_models import randomise, t5
from torch import Tensor
from transformers import AutoTokenizer

from sigmafield.models.single_file.tokenizers import unpack

WORDS = 151936
"""Words of Qwen's language models."""
FAMILIES = {
    "qwen_image": recent_models.save_qwen,
    "z_image": recent_models.save_z_image,
    "flux2": lambda folder: recent_models.save_flux2(folder, guided=False),
    "wan": recent_models.save_wan_experts,
}
"""Makers of pipelines by the families of templates."""


@cache
def pipeline(family: str, shown: bool = False, fine: bool = False) -> Any:
    """A small pipeline of a family; of Wan, for images to video, or 5B."""
    with tempfile.TemporaryDirectory() as folder:
        if family == "wan" and (shown or fine):
            make = recent_models.save_wan_fine if fine else lambda at: recent_models.save_wan_experts(at, more=20)
            return make(Path(folder))
        return FAMILIES[family](Path(folder))


def tensors(family: str, key: str, name: str) -> dict[str, Tensor]:
    """The tensors of a file that a node's input names."""
    name = name.lower()
    if key == "vae_name":
        return autoencoder(family, name)
    if key == "clip_name":
        return text_encoder(family)
    network = pipeline(family, "i2v" in name or "flf2v" in name, "5b" in name).transformer
    named = in_published_names(network)
    if key == "lora_name":
        layer, weight = next((k.removesuffix(".weight"), v) for k, v in named.items() if "attn" in k and v.ndim == 2)
        up, down = torch.ones(weight.shape[0], 1), torch.ones(1, weight.shape[1])
        return {f"diffusion_model.{layer}.lora_A.weight": down, f"diffusion_model.{layer}.lora_B.weight": up}
    return named


def text_encoder(family: str) -> dict[str, Tensor]:
    """The language model of a family, with Qwen's words, or UMT5 with a tokenizer."""
    if family == "wan":
        state = t5("UMT5", 16).state_dict()
        marks = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<s>", 0.0, 3), ("<unk>", 0.0, 2)]
        words = torch.tensor(list(spiece([*marks, ("▁", -1.0, 1), ("e", -2.0, 1)])), dtype=torch.uint8)
        return {"spiece_model": words, **{k: v for k, v in state.items() if "embed_tokens" not in k}}
    if family == "qwen_image":
        state = recent_models.qwen_vl(WORDS, AutoTokenizer.from_pretrained(shipped_words())).state_dict()
        visual = {k.replace("model.visual.", "visual."): v for k, v in state.items()}
        return {k.replace("model.language_model.", "model."): v for k, v in visual.items()}
    if family == "flux2":
        return recent_models.qwen3(WORDS, layers=27, width=16).state_dict()
    return recent_models.qwen3(WORDS).state_dict()


def shipped_words() -> Path:
    """A folder with Qwen's tokenizer."""
    config = Path(str(files("sigmafield"))) / "data" / "configs" / "qwen_image" / "tokenizer" / "tokenizer_config.json"
    return unpack("Qwen2Tokenizer", Path(tempfile.mkdtemp()), config)


def autoencoder(family: str, name: str) -> dict[str, Tensor]:
    """The VAE of a family."""
    from diffusers import AutoencoderKLFlux2, AutoencoderKLWan

    if "ae.safetensors" in name:
        return original_names.autoencoder(original_models.flux(False)[0]["vae"], "")
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
