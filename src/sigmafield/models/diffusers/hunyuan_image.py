"""HunyuanImage 2.1, without its refiner."""

from __future__ import annotations

import re

import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuanimage import AutoencoderKLHunyuanImage
from diffusers.models.transformers.transformer_hunyuanimage import HunyuanImageTransformer2DModel
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.chat import Chat, chat_encoder, load_language_model
from sigmafield.models.diffusers.glyphs import with_glyphs
from sigmafield.models.diffusers.hunyuan_video import guided_network
from sigmafield.models.diffusers.qwen import DRAW, SKIPPED
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.transformer import assemble, checked, patch_of
from sigmafield.models.diffusers.video_vae import load_hunyuan_vae
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.text.encoder import TextEncoder
from sigmafield.models.trained import trained_size
from sigmafield.parameterization.families import family

ASK = Chat(DRAW + "<|im_start|>user\n{}<|im_end|>", 1000, SKIPPED, layers=(-3,))
"""How Qwen 2.5 VL is asked for what an image shows."""
GLYPHS = 128
"""Tokens of the texts in quotes."""
QUOTES = (r"'(.*?)'", r'"(.*?)"', r"‘(.*?)’", r"“(.*?)”")
GUIDANCE = 3.25
"""The guidance input of a network that was distilled with it, where a recipe does not set another."""


def build_hunyuan_image(source: Source) -> Pipeline:
    """Builds the pipeline of a model with a HunyuanImageTransformer2DModel."""
    own = family("HunyuanImage21")
    vae, latent = load_hunyuan_vae(source, own, AutoencoderKLHunyuanImage)
    kind = "HunyuanImageTransformer2DModel"
    config = checked(source, kind, in_channels=latent.channels, use_meanflow=False)
    guided = bool(config.get("guidance_embeds"))
    text = NO_TEXT if source.alone else hunyuan_image_encoder(source, guided)
    transformer = source.module(HunyuanImageTransformer2DModel, "transformer")
    return assemble(
        source, own, guided_network, transformer, latent, text, vae, patch_of(config),
        trained_size(None, latent.factor, 64), cfg=1.0 if guided else 3.5,
    )  # fmt: skip


def hunyuan_image_encoder(source: Source, guided: bool) -> TextEncoder:
    """Loads the text encoders of HunyuanImage: hidden states of Qwen 2.5 VL, and ByT5's of texts in quotes."""

    def more(rows: int) -> dict[str, Tensor]:
        return {"guidance": torch.full((rows,), GUIDANCE, device=source.device)} if guided else {}

    module = load_language_model(source, Qwen2_5_VLForConditionalGeneration)
    return with_glyphs(source, chat_encoder(source, module, ASK, more), quoted, GLYPHS)


def quoted(prompt: str) -> list[str]:
    """The texts in quotes, by their kind."""
    return [text for pattern in QUOTES for text in re.findall(pattern, prompt)]
