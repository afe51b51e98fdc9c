"""`sigmafield serve`: the HTTP server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigmafield.cli.flags import Flags, Given, with_flags
from sigmafield.cli.groups import FILES
from sigmafield.cli.panels import panel
from sigmafield.serve.comfyui.file_settings import FileSettings
from sigmafield.serve.comfyui.settings import ComfyUISettings
from sigmafield.serve.http.settings import HttpSettings, read_tokens
from sigmafield.serve.limits import Limits
from sigmafield.serve.settings import EngineSettings

ENGINE = Flags(EngineSettings, "Engine", {"models": "model", "devices": "device"}, defaults={"models": ("tiny",)})
HTTP = Flags(HttpSettings, "Server", {"model_folder": "models", "input_folder": "inputs"}, without=("tokens", "limits"))
LIMITS = Flags(Limits, "Limits")
COMFYUI = Flags(ComfyUISettings, "ComfyUI", without=("files",))
COMFYUI_FILES = Flags(FileSettings, "ComfyUI")

TOKEN = "SIGMAFIELD_TOKEN"
"""Environment variable with tokens, in the form of a token file."""


@with_flags(engine=(ENGINE,), http=(HTTP,), limits=(LIMITS,), protocol=(COMFYUI,), places=(COMFYUI_FILES,))
def serve(
    *,
    engine: Given,
    http: Given,
    limits: Given,
    protocol: Given,
    places: Given,
    folder: Annotated[
        Path, Parameter(help="Folder of jobs, their states and images, and uploads.", group=FILES)
    ] = Path("sigmafield-jobs"),
    token_file: Annotated[
        Path | None,
        Parameter(
            help=f"File with a line OWNER TOKEN for each client; the variable {TOKEN} has the same form.",
            group=panel("Server"),
        ),
    ] = None,
    comfyui: Annotated[
        bool,
        Parameter(
            help="Speak ComfyUI's protocol as well, for its clients and its page.", group=panel("ComfyUI"), negative=""
        ),
    ] = False,
    ray: Annotated[
        str | None,
        Parameter(
            help="Run jobs on the devices of a Ray cluster: auto is that of this machine, HOST:PORT and "
            "ray://HOST:PORT are elsewhere; without an address, one is started with the devices of this machine.",
            group=panel("Machine"),
        ),
    ] = None,
) -> None:
    """Serve images over HTTP: a queue of jobs that run side by side and survive the process.

    http://127.0.0.1:8188/docs lists the routes.
    """
    try:
        from sigmafield.serve.http.run import serve as run
    except ImportError as error:
        raise ImportError(f"the server needs {error.name}: pip install 'sigmafield[server]'") from None
    text = token_file.read_text("utf-8") if token_file else os.environ.get(TOKEN)
    tokens = {} if text is None else read_tokens(text)
    settings = HttpSettings(**http, tokens=tokens, limits=Limits(**limits))
    given = [COMFYUI.flag(name) for name in protocol] + [COMFYUI_FILES.flag(name) for name in places]
    if given and not comfyui:
        raise ValueError(f"{given[0]} is for ComfyUI's protocol: give --comfyui as well")
    served = ComfyUISettings(**protocol, files=FileSettings(**places)) if comfyui else None
    engine_settings = EngineSettings(**engine)
    run(folder, engine_settings, settings, lambda address: print(f"listening at {address}", flush=True), ray, served)
