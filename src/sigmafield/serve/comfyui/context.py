"""What the handlers of ComfyUI's routes share."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from sigmafield.serve.comfyui.folders import Directories
from sigmafield.serve.comfyui.frontend_files import Frontend
from sigmafield.serve.comfyui.messages import PREVIEW_METADATA, TEXT_METADATA
from sigmafield.serve.comfyui.prompt_runs import Prompts
from sigmafield.serve.comfyui.settings import ComfyUISettings
from sigmafield.serve.comfyui.socket import Clients
from sigmafield.serve.engine import Engine
from sigmafield.serve.limits import MIB


@dataclass(frozen=True)
class ComfyUI:
    """What the handlers of ComfyUI's routes share.

    Args:
        engine: Runs the prompts, as jobs.
        prompts: Those that run.
        clients: The sockets of those who are told.
        directories: Where files are.
        settings: The flags.
        frontend: ComfyUI's page; None if it is not installed.
        max_body: MiB of a request's body.
    """

    engine: Engine
    prompts: Prompts
    clients: Clients
    directories: Directories
    settings: ComfyUISettings
    frontend: Frontend | None
    max_body: int

    @property
    def features(self) -> dict[str, object]:
        """What the server can do, by ComfyUI's names."""
        return {
            PREVIEW_METADATA: True,
            TEXT_METADATA: True,
            "max_upload_size": max(self.max_body * MIB, self.directories.settings.max_upload),
            "node_replacements": True,
            "assets": False,
            "partner_run_gate_enabled": False,
        }


COMFYUI = web.AppKey("comfyui", ComfyUI)


def comfyui_of(request: web.Request) -> ComfyUI:
    """What the handlers share."""
    return request.app[COMFYUI]
