"""How the modules of a loaded pipeline run: compiled, on the device one after another, the VAE tile by tile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sigmafield.models.bundle import Pipeline
from sigmafield.models.directory import NETWORKS
from sigmafield.models.vae.codec import codec
from sigmafield.models.vae.tiled import Collected, tiled_decode, tiled_encode

CPU = torch.device("cpu")
COMPILERS = ("g++", "c++", "clang++", "cl")


def offloaded(pipe: Pipeline) -> Pipeline:
    """The pipeline with its parts on the CPU; text encoders, network and VAE move to the device when one is called.

    At most one of the three is on the device, where it stays until another is called. Numbers are not changed.
    """
    text = [name for name in pipe.modules if name.startswith("text_encoder")]
    network = [name for name in pipe.modules if name in NETWORKS]

    def bring(names: Sequence[str]) -> None:
        for name, module in pipe.modules.items():
            if name not in names:
                module.to(CPU)
        for name in names:
            pipe.modules[name].to(pipe.device)

    def on_device(names: list[str], function: Callable[..., Any] | None) -> Any:
        if function is None:
            return None

        def call(*args: Any, **kwargs: Any) -> Any:
            bring(names)
            return function(*args, **kwargs)

        return call

    for module in pipe.modules.values():
        module.to(CPU)
    decode = on_device(["vae"], pipe.decode)
    return replace(
        pipe,
        encode_text=on_device(text, pipe.encode_text),
        encode_negative=on_device(text, pipe.encode_negative),
        network=on_device(network, pipe.network),
        encode=on_device(["vae"], pipe.encode),
        decode=decode,
        preview=decode if pipe.preview is pipe.decode else pipe.preview,
        bring=bring,
    )


def compiled(pipe: Pipeline) -> Pipeline:
    """The pipeline with its network compiled by torch, in place, at the first call for each shape of latents."""
    for name in NETWORKS:
        if name in pipe.modules:
            pipe.modules[name].compile()
    return pipe


def with_tiled_vae(pipe: Pipeline, tile: int = 64, collected: Collected = "estimated") -> Pipeline:
    """The pipeline with a VAE that works tile by tile, for large images in little memory: see `spatial.tiled_vae`.

    tile: places of the latent that a tile owns, at most. Raises ValueError for VAEs of video.
    """
    vae = pipe.modules.get("vae")
    if vae is None or pipe.latent.axes != 2:
        raise ValueError(f"{pipe.name} has no VAE of images that could work tile by tile")

    def here(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            if pipe.bring is not None:
                pipe.bring(["vae"])
            return function(vae, *args, collected=collected, **kwargs)

        return torch.no_grad()(call)

    encode, decode = codec(
        partial(here(tiled_encode), tile=tile * pipe.latent.factor),
        partial(here(tiled_decode), tile=tile),
        pipe.latent,
        pipe.device,
        next(vae.parameters()).dtype,
    )
    preview = decode if pipe.preview is pipe.decode else pipe.preview
    return replace(pipe, encode=encode, decode=decode, preview=preview)


def check_offload(device: torch.device) -> None:
    """Raises ValueError where there is no device to move parts to."""
    if device.type == "cpu":
        raise ValueError("offload=True keeps parts on the CPU until the device needs them; here the device is the CPU")


def check_compile(device: torch.device) -> None:
    """Raises ValueError where torch cannot compile, for want of a compiler."""
    if device.type == "cpu" and not (os.environ.get("CXX") or any(map(shutil.which, COMPILERS))):
        raise ValueError(f"compile=True needs a C++ compiler on the CPU; none of {', '.join(COMPILERS)} is there")
    if device.type == "cuda" and find_spec("triton") is None:
        raise ValueError("compile=True needs the package triton on cuda; it is not installed")
