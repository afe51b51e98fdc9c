"""Qwen-Image and Qwen-Image-Edit: arXiv:2508.02324."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.chat import MASK, QWEN, Chat, chat_encoder, load_language_model
from sigmafield.models.diffusers.flux_tokens import PATCH, latents_of, tokens_of
from sigmafield.models.diffusers.qwen_edit import image_encoder
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.transformer import assemble, checked, fits
from sigmafield.models.diffusers.vae import load_qwen_vae
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.module_view import view_of
from sigmafield.models.references import AT_ZERO, references
from sigmafield.models.text.encoder import TextEncoder
from sigmafield.models.trained import trained_size
from sigmafield.parameterization.families import family

DRAW = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n"
)
"""The system prompt that Qwen-Image was trained with."""
SKIPPED = 34
"""Tokens of the system prompt and of the words before the prompt."""
LENGTH = 1024
SEEN = 384**2
"""Pixels of an image as the text encoder sees it, of networks that were trained with several."""
ONE_IMAGE = "QwenImageEditPipeline"
"""The pipeline of the first Qwen-Image-Edit, which was trained with one image, without a number."""


def build_qwen(source: Source) -> Pipeline:
    """Builds the pipeline of a model with a QwenImageTransformer2DModel; it may be shown images to edit."""
    own = family("QwenImage")
    vae, latent = load_qwen_vae(source, own)
    checked(source, "QwenImageTransformer2DModel", in_channels=latent.channels * PATCH**2, guidance_embeds=False)
    text = NO_TEXT if source.alone else qwen_encoder(source)
    transformer = source.module(QwenImageTransformer2DModel, "transformer")
    return assemble(
        source, own, shown, transformer, latent, text, vae, PATCH, trained_size(None, latent.factor, 128),
        cfg=4.0, references=True,
    )  # fmt: skip


def qwen_encoder(source: Source) -> TextEncoder:
    """Loads the text encoder of Qwen-Image: Qwen 2.5 VL's last hidden states after the system prompt, and a mask."""
    module = load_language_model(source, Qwen2_5_VLForConditionalGeneration)
    text = chat_encoder(source, module, Chat(DRAW + QWEN, LENGTH, SKIPPED), lambda rows: {})
    numbered = source.where.index.get("_class_name") != ONE_IMAGE
    pixels = SEEN if numbered else None
    return replace(text, sees=image_encoder(source), numbered=numbered, seen_pixels=pixels)


def shown(transformer: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of Qwen-Image: tokens of the latent, then of each image to edit, with their sizes in tokens."""
    images = [x, *(image.to(x).expand(len(x), -1, -1, -1) for image in references(cond))]
    for image in images:
        fits(image, PATCH)
    if AT_ZERO in cond.extra and not transformer.zero_cond_t:
        transformer = with_images_at_zero(transformer)
    sizes = [(1, *(side // PATCH for side in image.shape[2:])) for image in images]
    tokens = torch.cat([tokens_of(image.to(transformer.dtype)) for image in images], dim=1)
    out = transformer(
        tokens,
        timestep=t,
        encoder_hidden_states=cond.embeds.to(transformer.dtype),
        encoder_hidden_states_mask=cond.extra[MASK],
        img_shapes=[sizes] * len(x),
    ).sample
    rows, columns = sizes[0][1:]
    return latents_of(out[:, : rows * columns], rows, columns).float()


def with_images_at_zero(transformer: Any) -> Any:
    """The network on the same weights, which gives the tokens of images that it is shown the timestep 0."""
    own = view_of(transformer)
    for part in (own, *own.transformer_blocks):
        part.zero_cond_t = True
    return own
