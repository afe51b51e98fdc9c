"""The second shipped model: a flow transformer on the latents of the first, which takes a timestep for each token."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sigmafield.core.conditioning import Cond
from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import DiffusionModel
from sigmafield.models.directory import open_directory
from sigmafield.models.scheduler_config import flow_sampling_of
from sigmafield.models.text.textual_inversion import Inversions
from sigmafield.models.tiny import latent_of, load_text, load_vae, read_module
from sigmafield.models.tiny.transformer import WanTransformer3DModel

SIDE, MULTIPLIER = 64, 1000.0
"""Pixels of a side that it was trained for, and its timestep at σ = 1."""


def load_tiny_flow(
    directory: Path,
    parts: Path,
    device: torch.device,
    dtype: torch.dtype,
    embeddings: Inversions = Inversions(),
) -> Pipeline:
    """Loads a WanTransformer3DModel for images, with the text encoder and the VAE of another model.

    Args:
        directory: Directory of diffusers' layout with the network and its scheduler.
        parts: Directory with the text encoder, the tokenizer and the VAE, as for `load_tiny`.
        device: Where its modules are put.
        dtype: Of the text encoder and the network.
        embeddings: What prompts may name as `embedding:name`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a config or a weight is not supported.
    """
    where, shared = open_directory(directory), open_directory(parts)
    network = where.folder("transformer", "WanTransformer3DModel")
    vae, c = load_vae(shared, device, dtype)
    text = load_text(shared, device, dtype, embeddings)
    module = read_module(WanTransformer3DModel, network, device, dtype)

    def forward(module: Any, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return module(x.to(dtype), t, cond.embeds.to(dtype)).float()

    _, *patch = module.config.patch_size
    model = DiffusionModel(
        directory.name,
        forward,
        flow_sampling_of(where.scheduler(), MULTIPLIER),
        latent_of(parts, vae, c),
        (SIDE, SIDE),
        module,
        part="transformer",
        schedule="simple",
        patch=patch[-1],
        shift_at=shift_at,
        tokens=tuple(patch),
        device=device,
    )
    return Pipeline(model, text, vae)


def shift_at(size: tuple[int, int]) -> float:
    """The time shift √(pixels / those of the training), as in Esser et al., arXiv:2403.03206, equation 23."""
    return math.sqrt(size[0] * size[1]) / SIDE
