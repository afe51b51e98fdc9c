"""Qwen-Image 2.1: text and images in one sequence, in which each image stands where the prompt shows it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21Transformer2DModel
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusers.chat import MASK
from sigmafield.models.diffusers.qwen21_text import SLOTS, qwen21_encoder
from sigmafield.models.diffusers.source import Source
from sigmafield.models.diffusers.transformer import assemble, checked, fits, levels
from sigmafield.models.diffusers.vae import load_qwen21_vae
from sigmafield.models.missing import NO_TEXT
from sigmafield.models.network_call import rows
from sigmafield.models.references import references
from sigmafield.models.trained import trained_size
from sigmafield.parameterization.families import family

SIDE = 2
"""Latent positions along each side of what the text encoder sees as one token."""


def build_qwen21(source: Source) -> Pipeline:
    """Builds the pipeline of a model with a QwenImage21Transformer2DModel; it may be shown images to edit."""
    own = family("QwenImage21")
    vae, latent = load_qwen21_vae(source, own)
    checked(source, "QwenImage21Transformer2DModel", in_channels=latent.channels, patch_size=1)
    text = NO_TEXT if source.alone else qwen21_encoder(source)
    transformer = source.module(QwenImage21Transformer2DModel, "transformer")
    return assemble(
        source, own, in_sequence, transformer, latent, text, vae, SIDE, trained_size(None, latent.factor, 64),
        cfg=1.0, references=True, **levels(source, own, latent.factor),
    )  # fmt: skip


def in_sequence(transformer: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The network of Qwen-Image 2.1; a call is of rows whose prompts have the same tokens of images, and no padding."""
    fits(x, SIDE)
    slots, lengths = cond.extra[SLOTS].bool(), cond.extra[MASK].sum(1).tolist()
    if len(x) == 1 or (len(set(lengths)) == 1 and bool((slots == slots[:1]).all())):
        return one_layout(transformer, x, t, cond, lengths[0])
    each = [slice(k, k + 1) for k in range(len(x))]
    return torch.cat([one_layout(transformer, x[k], t[k], rows(cond, k), n) for k, n in zip(each, lengths)])


def one_layout(transformer: Any, x: Tensor, t: Tensor, cond: Cond, length: int) -> Tensor:
    """The network for rows whose prompts have this many tokens, and their images at the same ones.

    Raises:
        ValueError: The images that the network is shown are not those that the prompt was encoded with.
    """
    images = [*(image.to(x).expand(len(x), -1, -1, -1) for image in references(cond)), x]
    for image in images:
        fits(image, SIDE)
    slots = cond.extra[SLOTS][:, :length].bool()
    shown, wanted = (sum(image.shape[2] * image.shape[3] for image in images[:-1]), int(slots[0].sum()) * SIDE**2)
    if shown and shown != wanted:
        raise ValueError(
            f"the prompt was encoded with images of {wanted} latent positions, and the network is shown {shown}"
        )
    if not shown:
        slots = torch.zeros_like(slots)
    own = slots.new_ones(len(x), x.shape[2] * x.shape[3] // SIDE**2)
    tokens = torch.cat([image.to(transformer.dtype).flatten(2).transpose(1, 2) for image in images], dim=1)
    out = transformer(
        tokens,
        encoder_hidden_states=cond.embeds[:, :length].to(transformer.dtype),
        timestep=t,
        img_shapes=[[(1, *image.shape[2:]) for image in images]] * len(x),
        img_mask=torch.cat([slots, own], dim=1),
    ).sample
    return out[:, -x.shape[2] * x.shape[3] :].transpose(1, 2).unflatten(2, x.shape[2:]).float()
