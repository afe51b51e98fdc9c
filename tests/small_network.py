"""The embedded model with a network and a VAE of few channels and random weights: the same code in a third of the time.

For laws that hold whatever the weights are. Its images are noise.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sigmafield as sf
from sigmafield.models.directory import read_json
from sigmafield.models.tiny.unet import UNet
from sigmafield.models.tiny.vae import VAE

EMBEDDED = Path(str(files("sigmafield"))) / "data" / "tiny"
UNET = {"block_out_channels": [8, 16, 32], "attention_head_dim": [1, 1, 2], "norm_num_groups": 4}
VAE_ = {"block_out_channels": [8, 8, 16], "norm_num_groups": 4}


def drawn(kind: type[nn.Module], part: str, changes: dict[str, Any]) -> Any:
    """A module of the embedded model's shape but for some settings, with random weights, the same ones each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = kind(read_json(EMBEDDED / part / "config.json") | changes)
        with torch.no_grad():
            for weights in module.parameters():  # biases and norms, too, so that no two are alike
                weights += 0.1 * torch.randn_like(weights)
    return module.eval().requires_grad_(False)


@cache
def small_model() -> sf.Pipeline:
    """The pipeline, made once: its values are never changed."""
    pipe = sf.load("tiny", device="cpu")
    vae = drawn(VAE, "vae", VAE_)
    return replace(
        pipe,
        model=replace(pipe.model, module=drawn(UNet, "unet", UNET)),
        vae=replace(pipe.vae, module=vae, encoder=vae.encode, decoder=vae.decode),
    )
