"""HunyuanVideo 1: arXiv:2412.03603."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTransformer3DModel
from torch import Tensor
from transformers import CLIPTextModel, LlamaModel

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.chat import Chat, chat_encoder
from sigmafield.models.diffusers.clip import load_clip
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.transformer import assemble, checked, patch_of, plain
from sigmafield.models.diffusers.video_vae import load_hunyuan_vae
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.text.bundled import NONE, Bundled
from sigmafield.models.text.encoder import Modules, TextEncoder
from sigmafield.parameterization.families import family

GUIDANCE = 6.0
"""The guidance input of a network that was distilled with it, where a recipe does not set another."""
TIMES = 1000
"""Factor of the guidance in what the network takes as an input."""
SIZE, FRAMES = (720, 1280), 129
"""Size and frames that the network was trained for."""
LLAMA = Chat(
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the following aspects: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
    256, skipped=95, layers=(-3,), marked=True,
)  # fmt: skip
"""How Llama 3 is asked for what a video shows."""


def build_hunyuan_video(source: Source) -> Pipeline:
    """Builds the pipeline of a model with a HunyuanVideoTransformer3DModel."""
    own = family("HunyuanVideo")
    vae, latent = load_hunyuan_vae(source, own, AutoencoderKLHunyuanVideo)
    kind = "HunyuanVideoTransformer3DModel"
    config = checked(source, kind, in_channels=latent.channels, patch_size_t=1, image_condition_type=None)
    guided = bool(config.get("guidance_embeds", True))
    text = NO_TEXT if source.alone else hunyuan_video_encoder(source, guided)
    transformer = source.module(HunyuanVideoTransformer3DModel, "transformer")
    return assemble(
        source, own, guided_network, transformer, latent, text, vae, patch_of(config), SIZE, cfg=1.0 if guided else 6.0,
        frames=FRAMES,
    )  # fmt: skip


def hunyuan_video_encoder(source: Source, guided: bool) -> TextEncoder:
    """Loads the text encoders of HunyuanVideo: hidden states of Llama 3 with a mask, and CLIP's pooled vector."""

    def more(rows: int) -> dict[str, Tensor]:
        return {"guidance": torch.full((rows,), GUIDANCE, device=source.device)} if guided else {}

    chat = chat_encoder(source, source.module(LlamaModel, "text_encoder"), LLAMA, more)
    clip = load_clip(source, CLIPTextModel, 2)

    def encode_text(
        modules: Modules,
        prompts: Sequence[str],
        size: tuple[int, int],
        clip_skip: int | None = None,
        bundled: Bundled = NONE,
    ) -> Cond:
        cond = chat.positive(modules, prompts, size, clip_skip, bundled)
        pooled = clip.of(modules, bundled).pooled(prompts)
        return replace(cond, extra={**cond.extra, "pooled_projections": pooled})

    return replace(chat, positive=encode_text, modules={**chat.modules, "text_encoder_2": clip.module})


def guided_network(transformer: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """Calls a network of Hunyuan, with `TIMES` the guidance as an input if it was distilled with guidance."""
    if "guidance" in cond.extra:
        cond = replace(cond, extra={**cond.extra, "guidance": TIMES * cond.extra["guidance"]})
    return plain(transformer, x, t, cond)
