"""Servers that speak ComfyUI's protocol, each with an engine of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving import Client, serving, settings_of

from sigmafield.serve.comfyui.folders import FileSettings
from sigmafield.serve.comfyui.settings import ComfyUISettings
from sigmafield.serve.engine import Engine
from sigmafield.serve.http.run import make_engine
from sigmafield.serve.settings import EngineSettings


@contextmanager
def comfy_engine(
    base: Path,
    http: Mapping[str, Any] = {},
    files: Mapping[str, Any] = {},
    protocol: Mapping[str, Any] = {},
    start: bool = True,
    **more: Any,
) -> Iterator[tuple[Client, Engine]]:
    """A server with its engine.

    Args:
        base: The base directory.
        http: Settings of the server.
        files: Settings of directories.
        protocol: Further settings of the protocol.
        start: Whether jobs run.
        more: Settings of the engine.
    """
    settings = settings_of(base, model_folder=None, input_folder=None, **http)
    comfyui = ComfyUISettings(**protocol, files=FileSettings(**files))
    engine = make_engine(
        base, EngineSettings(**{"devices": ("cpu",), "preview_every": 0.03, **more}), settings, comfyui=comfyui
    )
    try:
        if start:
            engine.start()
        with serving(engine, settings, base, comfyui) as client:
            yield client, engine
    finally:
        engine.stop()


@contextmanager
def comfy_server(base: Path, tokens: Mapping[str, str] = {}, **files: Any) -> Iterator[Client]:
    """A server that runs no jobs, with settings of its directories."""
    with comfy_engine(base, {"tokens": tokens}, files, start=False) as (client, _):
        yield client
