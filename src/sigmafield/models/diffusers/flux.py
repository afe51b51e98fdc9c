"""Flux 1 of Black Forest Labs: dev, schnell, Kontext, Fill, and Canny and Depth, which are shown an image."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.attend import attending, on_joint_block
from sigmafield.models.diffusers.clip import load_clip
from sigmafield.models.diffusers.control import residuals
from sigmafield.models.diffusers.control_transformer import fitting_transformer
from sigmafield.models.diffusers.flux_tokens import PATCH, latents_of, patch_positions, text_positions, tokens_of
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.text import of_prompts, t5
from sigmafield.models.diffusers.transformer import assemble, checked, fits, in_dtype
from sigmafield.models.diffusers.vae import load_vae
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.references import references, without_references
from sigmafield.models.text.bundled import Bundled
from sigmafield.models.text.encoder import Modules, TextEncoder
from sigmafield.models.trained import trained_size
from sigmafield.parameterization.families import family

GUIDANCE = 3.5
"""The guidance input of a network that was distilled with guidance, where a recipe does not set another."""
GUIDANCE_SHOWN = 30.0
"""That of a network that is shown an image in its input channels: Fill, Canny, Depth."""


def build_flux(source: Source) -> Pipeline:
    """Builds the pipeline of a model with a FluxTransformer2DModel; with guidance_embeds it has a guidance input.

    Fill is shown an image and a mask of factor² numbers per position, Canny and Depth an image.
    """
    guided = bool(source.config("transformer", "FluxTransformer2DModel").get("guidance_embeds"))
    own = family("Flux" if guided else "FluxSchnell")
    vae, latent = load_vae(source, own)
    channels = [latent.channels + more for more in (0, latent.channels, latent.channels + latent.factor**2)]
    known = tuple(PATCH**2 * each for each in channels)
    config = checked(source, "FluxTransformer2DModel", in_channels=known, patch_size=1)
    concat = config["in_channels"] // PATCH**2 - latent.channels
    text = NO_TEXT if source.alone else flux_encoder(source, guided, GUIDANCE_SHOWN if concat else GUIDANCE)
    transformer = source.module(FluxTransformer2DModel, "transformer")
    return assemble(
        source, own, packed, transformer, latent, text, vae, PATCH, trained_size(None, latent.factor, 128),
        cfg=1.0, concat=concat, controls=fitting_transformer(transformer), references=not concat, image_prompts=True,
    )  # fmt: skip


def flux_encoder(source: Source, guided: bool, guidance: float = GUIDANCE) -> TextEncoder:
    """Loads the text encoders of Flux.

    Its conditionings hold T5's hidden states (embeds), of 512 tokens for dev and 256 for schnell, CLIP's pooled vector
    (pooled_projections) and, for dev, the guidance input (guidance).
    """
    clip = load_clip(source, CLIPTextModel)
    embed, text = t5(source, "text_encoder_2", "tokenizer_2", 512 if guided else 256)

    @of_prompts
    def encode_text(modules: Modules, prompts: Sequence[str], bundled: Bundled) -> Cond:
        extra = {"pooled_projections": clip.of(modules, bundled).pooled(prompts)}
        if guided:
            extra["guidance"] = torch.full((len(prompts),), guidance, device=source.device)
        return Cond(embed(modules["text_encoder_2"], prompts)[0], extra)

    return TextEncoder(encode_text, modules={"text_encoder": clip.module, "text_encoder_2": text})


def packed(transformer: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of Flux: each patch of 2×2 positions is a token that comes with its row and column.

    Controls see x without the concat.
    Tokens of the images that Kontext is shown follow those of the latent, with the image's number.
    """
    wide = x if cond.concat is None else torch.cat([x, cond.concat.to(x)], dim=1)
    images = [wide, *(image.to(x).expand(len(x), -1, -1, -1) for image in references(cond))]
    for image in images:
        fits(image, PATCH)
    sides = [(image.shape[2] // PATCH, image.shape[3] // PATCH) for image in images]
    rows, columns = sides[0]
    added = residuals(x, t, cond)
    with attending(transformer, cond.image_prompts, on_joint_block):
        out = transformer(
            torch.cat([tokens_of(image.to(transformer.dtype)) for image in images], dim=1),
            encoder_hidden_states=cond.embeds.to(transformer.dtype),
            timestep=t,
            img_ids=torch.cat([patch_positions(*side, x.device, number) for number, side in enumerate(sides)]),
            txt_ids=text_positions(cond.embeds),
            controlnet_block_samples=longer(added.blocks, sides) or None,
            controlnet_single_block_samples=longer(added.singles, sides) or None,
            **in_dtype(without_references(cond), transformer),
        ).sample
    return latents_of(out[:, : rows * columns], rows, columns).float()


def longer(added: Sequence[Tensor], sides: Sequence[Sequence[int]]) -> list[Tensor]:
    """What controls add to the latent's tokens [B, tokens, C], with 0 for those of further images."""
    return [F.pad(each, (0, 0, 0, sum(map(prod, sides[1:])))) for each in added]
