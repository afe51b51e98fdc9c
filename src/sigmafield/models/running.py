"""How the modules of a loaded model run: compiled, or on the device one after another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from threading import RLock
from typing import Any

import torch

from sigmafield.models.bundle import Pipeline
from sigmafield.models.diffusion_model import DiffusionModel

CPU = torch.device("cpu")
COMPILERS = ("g++", "c++", "clang++", "cl")


def offloaded(pipe: Pipeline) -> Pipeline:
    """Keeps the parts of a model on the CPU until they are called; results do not change.

    Text encoders, network and VAE are on the device one at a time; each stays there until another is called. Threads
    that share the model, or others with its weights, call the parts in turn.
    """
    return taking_turns(Turns(pipe.device), pipe)


class Turns:
    """Which modules are on the device: those that were called last, one thread at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._lock, self._there = device, RLock(), list[Any]()
        self._called: Sequence[Any] = ()

    @contextmanager
    def on_device(self, modules: Sequence[Any]) -> Iterator[None]:
        """Brings modules to the device, after those that are there and not among them have left it.

        Within another call, such as that of a VAE that reads a control's image for the network, the modules of that
        call stay.
        """
        with self._lock:
            outer = self._called
            modules = [*outer, *modules]
            for module in self._there:
                if not any(module is each for each in modules):
                    module.to(CPU)
            for module in modules:
                module.to(self._device)
            self._there = self._called = modules
            try:
                yield
            finally:
                self._called = outer

    def off_device(self, modules: Iterable[Any]) -> None:
        """Sends modules to the CPU, when nothing is being called."""
        with self._lock:
            for module in modules:
                module.to(CPU)


def taking_turns(turns: Turns, pipe: Pipeline) -> Pipeline:
    """The pipeline with its parts on the device in turn with those of other pipelines."""
    turns.off_device(pipe.modules.values())
    return replace(
        pipe,
        model=replace(pipe.model, running=partial(turns.on_device, [pipe.model.module])),
        text=replace(pipe.text, running=partial(turns.on_device, list(pipe.text.modules.values()))),
        vae=replace(pipe.vae, running=partial(turns.on_device, [pipe.vae.module])),
        arranged=partial(taking_turns, turns),
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
