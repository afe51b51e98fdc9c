"""Routes that say what the server runs on, and what it can do."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from aiohttp import web

from sigmafield.serve.comfyui.answers import plain
from sigmafield.serve.comfyui.context import ComfyUI, comfyui_of
from sigmafield.serve.http.context import in_thread

COMFYUI_VERSION = "0.8.0"
"""The version of ComfyUI whose protocol this is, as clients compare it."""

ARGUMENTS = ("main.py", "--disable-api-nodes")
"""What the page reads from the command line: it then asks nothing of its makers' servers."""


async def stats(request: web.Request) -> web.Response:
    """The system and its devices."""
    return plain(await in_thread(_stats, comfyui_of(request)))


def _stats(here: ComfyUI) -> dict[str, Any]:
    total, free = memory()
    page = here.frontend
    system = {
        "os": sys.platform, "ram_total": total, "ram_free": free, "comfyui_version": COMFYUI_VERSION,
        "required_frontend_version": page.version if page else "",
        "installed_templates_version": page.templates_version if page else None,
        "required_templates_version": page.templates_version if page else None,
        "python_version": sys.version, "pytorch_version": torch.__version__, "embedded_python": False,
        "argv": list(ARGUMENTS),
    }  # fmt: skip
    names = [figures.name for figures in here.engine.figures().devices]
    return {"system": system, "devices": [device(k, name, total, free) for k, name in enumerate(names)]}


def device(index: int, name: str, total: int, free: int) -> dict[str, Any]:
    """A device in ComfyUI's form; memory of a CPU is the machine's."""
    kind = torch.device(name)
    if kind.type == "cuda":
        free, total = torch.cuda.mem_get_info(kind)
        name = f"{name} {torch.cuda.get_device_name(kind)}"
    return {
        "name": name, "type": kind.type, "index": kind.index, "vram_total": total, "vram_free": free,
        "torch_vram_total": total, "torch_vram_free": free,
    }  # fmt: skip


def memory() -> tuple[int, int]:
    """(bytes of memory that the machine has, those that are free); (0, 0) where the system does not say."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0, 0


async def features(request: web.Request) -> web.Response:
    """What the server can do."""
    return plain(comfyui_of(request).features)


def routes() -> list[web.RouteDef]:
    """The routes of the system."""
    return [web.get("/system_stats", stats), web.get("/features", features)]
