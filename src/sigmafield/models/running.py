"""How the modules of a loaded model run: compiled, or on the device one after another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from threading import RLock

import torch

from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import DiffusionModel

CPU = torch.device("cpu")
COMPILERS = ("g++", "c++", "clang++", "cl")


def offloaded(pipe: Pipeline) -> Pipeline:
    """Keeps the parts of a model on the CPU until they are called; results do not change.

    Text encoders, network and VAE are on the device one at a time; each stays there until another is called. Threads
    that share the model call its parts in turn.
    """
    modules, device, turn = pipe.modules, pipe.device, RLock()

    @contextmanager
    def on_device(names: Collection[str]) -> Iterator[None]:
        with turn:
            for name, module in modules.items():
                if name not in names:
                    module.to(CPU)
            for name in names:
                modules[name].to(device)
            yield

    for module in modules.values():
        module.to(CPU)
    return replace(
        pipe,
        model=replace(pipe.model, running=partial(on_device, [pipe.model.part])),
        text=replace(pipe.text, running=partial(on_device, list(pipe.text.modules))),
        vae=replace(pipe.vae, running=partial(on_device, ["vae"])),
    )


def compiled(model: DiffusionModel) -> DiffusionModel:
    """Compiles a network with torch, in place, at the first call for each shape of latents."""
    if model.module is not None:
        model.module.compile()
    return model


def check_offload(device: torch.device) -> None:
    """Raises ValueError where the only device is the CPU."""
    if device.type == "cpu":
        raise ValueError("offload=True keeps parts on the CPU until the device needs them; here the device is the CPU")


def check_compile(device: torch.device) -> None:
    """Raises ValueError where torch does not find the compiler that it needs."""
    if device.type == "cpu" and not (os.environ.get("CXX") or any(map(shutil.which, COMPILERS))):
        raise ValueError(f"compile=True needs a C++ compiler on the CPU; did not find {', '.join(COMPILERS)}")
    if device.type == "cuda" and find_spec("triton") is None:
        raise ValueError("compile=True needs the package triton on cuda; it is not installed")
