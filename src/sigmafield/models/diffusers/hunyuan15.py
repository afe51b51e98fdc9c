"""HunyuanVideo 1.5, text to video and image to video: arXiv:2511.18870."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15 import AutoencoderKLHunyuanVideo15
from diffusers.models.transformers.transformer_hunyuan_video15 import HunyuanVideo15Transformer3DModel
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLTextModel

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.chat import QWEN, Chat, chat_encoder, load_language_model
from sigmafield.models.diffusers.glyphs import with_glyphs
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.transformer import assemble, checked, patch_of, plain
from sigmafield.models.diffusers.video_vae import load_hunyuan_vae
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.text.encoder import TextEncoder
from sigmafield.parameterization.families import family

GAP = " " * 9
"""Between the lines of the system prompt, as in the network's training."""
ASK = Chat(
    "<|im_start|>system\n"
    + GAP.join((
        "You are a helpful assistant. Describe the video by detailing the following aspects:",
        "1. The main content and theme of the video.",
        "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects.",
        "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects.",
        "4. background environment, light, style and atmosphere.",
        "5. camera angles, movements, and transitions used in the video.",
    ))
    + "<|im_end|>\n" + QWEN,
    1000, skipped=108, layers=(-3,),
)  # fmt: skip
"""How Qwen 2.5 VL is asked for what a video shows."""
GLYPHS = 256
"""Tokens of the texts in quotes."""
QUOTES = re.compile(r'"(.*?)"|“(.*?)”')
SIZE, FRAMES = (480, 848), 121
"""Size and frames that are drawn unless others are given."""
SEEN = "image_embeds"
"""Name of what a vision encoder sees in the first frame, among a conditioning's further inputs."""


def build_hunyuan15(source: Source) -> Pipeline:
    """Builds the pipeline of a model with a HunyuanVideo15Transformer3DModel.

    Next to the latent it reads the latents of frames that it is shown, and where they are; text to video is without.
    """
    own = family("HunyuanVideo15")
    vae, latent = load_hunyuan_vae(source, own, AutoencoderKLHunyuanVideo15)
    kind, shown = "HunyuanVideo15Transformer3DModel", latent.channels + 1
    config = checked(
        source, kind, in_channels=latent.channels + shown, out_channels=latent.channels, patch_size_t=1,
        use_meanflow=False,
    )  # fmt: skip
    text = NO_TEXT if source.alone else hunyuan15_encoder(source)
    transformer = source.module(HunyuanVideo15Transformer3DModel, "transformer")
    return assemble(
        source, own, beginning, transformer, latent, text, vae, patch_of(config), SIZE, cfg=6.0, frames=FRAMES,
        concat=shown, may_lack_concat=True,
    )  # fmt: skip


def hunyuan15_encoder(source: Source) -> TextEncoder:
    """Loads the text encoders of HunyuanVideo 1.5: hidden states of Qwen 2.5 VL, and ByT5's of texts in quotes."""
    module = load_language_model(source, Qwen2_5_VLTextModel, Qwen2_5_VLForConditionalGeneration)
    return with_glyphs(source, chat_encoder(source, module, ASK, lambda rows: {}), quoted, GLYPHS)


def quoted(prompt: str) -> list[str]:
    """The texts in double quotes, each once."""
    return list(dict.fromkeys(match[1] or match[2] for match in QUOTES.finditer(prompt)))


def beginning(transformer: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of HunyuanVideo 1.5, with the frames that it is shown or without."""
    if cond.concat is None:
        cond = replace(cond, concat=x.new_zeros(len(x), transformer.config.in_channels - x.shape[1], *x.shape[2:]))
    if SEEN not in cond.extra:
        nothing = torch.zeros(len(x), 1, transformer.config.image_embed_dim, device=x.device)
        cond = replace(cond, extra={**cond.extra, SEEN: nothing})
    return plain(transformer, x, t, cond)
