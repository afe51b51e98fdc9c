"""Flux 2 of Black Forest Labs: dev, and klein, base and distilled."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from torch import Tensor, nn
from transformers import Mistral3ForConditionalGeneration, MistralModel, Qwen3ForCausalLM, Qwen3Model

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.chat import QWEN, Chat, chat_encoder, load_language_model
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.transformer import assemble, checked, in_dtype
from sigmafield.models.diffusers.vae import load_flux2_vae
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.references import references, without_references
from sigmafield.models.text.encoder import TextEncoder
from sigmafield.models.trained import trained_size
from sigmafield.parameterization.families import family

GUIDANCE = 4.0
"""The guidance input of dev, which was distilled with it, where a recipe does not set another."""
SYSTEM = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object "
    "relationships, object\nattribution and actions without speculation."
)
LENGTH = 512
MISTRAL = Chat(f"<s>[SYSTEM_PROMPT]{SYSTEM}[/SYSTEM_PROMPT][INST]{{}}[/INST]", LENGTH, layers=(10, 20, 30), padded=True)
"""How dev asks Mistral Small."""
KLEIN = Chat(f"{QWEN}<think>\n\n</think>\n\n", LENGTH, layers=(9, 18, 27), padded=True)
"""How klein asks Qwen 3, without letting it think."""
APART = 10
"""Positions in time between one image and the next."""


def build_flux2(source: Source) -> Pipeline:
    """Builds the pipeline of a model with a Flux2Transformer2DModel; with guidance_embeds it has a guidance input."""
    own = family("Flux2")
    guided = bool(source.config("transformer", "Flux2Transformer2DModel").get("guidance_embeds", True))
    vae, latent = load_flux2_vae(source, own)
    checked(source, "Flux2Transformer2DModel", in_channels=latent.channels, patch_size=1)
    text = NO_TEXT if source.alone else flux2_encoder(source, guided)
    transformer = source.module(Flux2Transformer2DModel, "transformer")
    distilled = guided or bool(source.where.index.get("is_distilled"))
    return assemble(
        source, own, placed, transformer, latent, text, vae, 1, trained_size(None, latent.factor, 64),
        sampling=own.sampling(), cfg=1.0 if distilled else 4.0, references=True,
    )  # fmt: skip


def flux2_encoder(source: Source, guided: bool) -> TextEncoder:
    """Loads the text encoder of Flux 2: three hidden states of Mistral (dev) or Qwen 3 (klein), joined."""
    kinds = (Mistral3ForConditionalGeneration, MistralModel) if guided else (Qwen3ForCausalLM, Qwen3Model)
    module = load_language_model(source, *kinds)
    if isinstance(module, MistralModel) and module.config.num_hidden_layers == max(MISTRAL.layers):
        # of a network that was cut after the last state that is read
        module.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]: it is declared as Mistral's

    def more(rows: int) -> dict[str, Tensor]:
        return {"guidance": torch.full((rows,), GUIDANCE, device=source.device)} if guided else {}

    return chat_encoder(source, module, MISTRAL if guided else KLEIN, more)


def placed(transformer: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of Flux 2: each position is a token, at (time, row, column, place in the text).

    Images that it is shown follow the latent, at later times.
    """
    images = [x, *(image.to(x).expand(len(x), -1, -1, -1) for image in references(cond))]
    tokens = torch.cat([image.to(transformer.dtype).flatten(2).transpose(1, 2) for image in images], dim=1)
    at = torch.cat([positions(APART * k, image.shape[2], image.shape[3]) for k, image in enumerate(images)])
    words = torch.cartesian_prod(*map(torch.arange, (1, 1, 1, cond.embeds.shape[1])))
    out = transformer(
        tokens,
        encoder_hidden_states=cond.embeds.to(transformer.dtype),
        timestep=t,
        img_ids=at.to(x.device),
        txt_ids=words.to(x.device),
        **in_dtype(without_references(cond), transformer),
    ).sample
    return out[:, : x.shape[2] * x.shape[3]].transpose(1, 2).unflatten(2, x.shape[2:]).float()


def positions(time: int, height: int, width: int) -> Tensor:
    """Gives (time, row, column, 0) of each token of an image, row by row: [height · width, 4]."""
    return torch.cartesian_prod(torch.tensor([time]), torch.arange(height), torch.arange(width), torch.arange(1))
