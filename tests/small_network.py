"""The embedded model with a network and a VAE of few channels and random weights: the same code in a third of the time.

For laws that hold whatever the weights are. Its images are noise. `small_model` is such a pipeline, and within
`few_channels` the embedded model is loaded as one, by whatever loads it. `shipped_model` is the embedded model itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MethodType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

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
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            vars(layer)["_conv_forward"] = MethodType(convolved, layer)
    return module.eval().requires_grad_(False)


FEW = 20480
"""Numbers of an input up to which torch convolves one sample by its own kernel, and several by oneDNN's."""

BY_TORCH = nn.Conv2d._conv_forward


def convolved(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution by torch's own kernel where there is little to convolve: oneDNN's takes three times as long."""
    plain = layer.groups == 1 and layer.dilation == (1, 1) and not isinstance(layer.padding, str)
    if not plain or layer.padding_mode != "zeros" or x.numel() > FEW or (x.device.type, x.dtype) != KERNEL:
        return BY_TORCH(layer, x, weight, bias)
    return torch.ops.aten.thnn_conv2d(x, weight, layer.kernel_size, bias, layer.stride, layer.padding)


KERNEL = ("cpu", torch.float32)
"""Device and type of what it is faster for."""


def read_small(kind: type[nn.Module], folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """What `read_module` reads; of the embedded model a network and a VAE of few channels."""
    if folder.parent != EMBEDDED or folder.name not in SMALL:
        return read_module(kind, folder, device, dtype)
    return copy.deepcopy(drawn(folder.name)).to(device, dtype)


@contextmanager
def few_channels(read: Callable[..., Any] = read_small) -> Iterator[None]:
    """The embedded model is loaded with a network and a VAE of few channels meanwhile; `read` may remember them."""
    with mock.patch.object(tiny, "read_module", read):
        yield


@cache
def loaded(read: Callable[..., Any]) -> sf.Pipeline:
    """The embedded model, whose modules a function reads."""
    return sf.load("tiny", device="cpu")


def shipped_model() -> sf.Pipeline:
    """The embedded model; within `few_channels` one of few channels. Read once each: its values are never changed."""
    return loaded(tiny.read_module)


@cache
def small_model() -> sf.Pipeline:
    """The pipeline, made once: its values are never changed."""
    pipe = loaded(read_module)
    vae = drawn("vae")
    return replace(
        pipe,
        model=replace(pipe.model, module=drawn("unet")),
        vae=replace(pipe.vae, module=vae, encoder=vae.encode, decoder=vae.decode),
    )
