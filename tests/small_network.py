"""The embedded model with a network and a VAE of few channels and random weights: the same code in a third of the time.

For laws that hold whatever the weights are. Its images are noise. `small_model` is such a pipeline, and within
`few_channels` the embedded model is loaded as one, by whatever loads it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import sigmafield as sf
from sigmafield.models import tiny
from sigmafield.models.directory import read_json
from sigmafield.models.tiny.unet import UNet
from sigmafield.models.tiny.vae import VAE

EMBEDDED = Path(str(files("sigmafield"))) / "data" / "tiny"
UNET = {"block_out_channels": [8, 16, 32], "attention_head_dim": [1, 1, 2], "norm_num_groups": 4}
VAE_ = {"block_out_channels": [8, 8, 16], "norm_num_groups": 4}


read_module = tiny.read_module
SMALL: dict[str, tuple[Any, dict[str, Any]]] = {"unet": (UNet, UNET), "vae": (VAE, VAE_)}
"""Part of the embedded model → its class, and the settings that make it small."""


@cache
def drawn(part: str) -> Any:
    """A module of the embedded model's shape but with few channels and random weights, the same ones each time."""
    kind, changes = SMALL[part]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = kind(read_json(EMBEDDED / part / "config.json") | changes)
        with torch.no_grad():
            for weights in module.parameters():  # biases and norms, too, so that no two are alike
                weights += 0.1 * torch.randn_like(weights)
    return module.eval().requires_grad_(False)


def read_small(kind: type[nn.Module], folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """What `read_module` reads; of the embedded model a network and a VAE of few channels."""
    if folder.parent != EMBEDDED or folder.name not in SMALL:
        return read_module(kind, folder, device, dtype)
    return copy.deepcopy(drawn(folder.name)).to(device, dtype)


@contextmanager
def few_channels() -> Iterator[None]:
    """The embedded model is loaded with a network and a VAE of few channels meanwhile."""
    with mock.patch.object(tiny, "read_module", read_small):
        yield


@cache
def small_model() -> sf.Pipeline:
    """The pipeline, made once: its values are never changed."""
    pipe = sf.load("tiny", device="cpu")
    vae = drawn("vae")
    return replace(
        pipe,
        model=replace(pipe.model, module=drawn("unet")),
        vae=replace(pipe.vae, module=vae, encoder=vae.encode, decoder=vae.decode),
    )
