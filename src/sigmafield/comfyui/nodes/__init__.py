"""Node classes: a module per family, found by themselves; `sigmafield.comfyui.declare` says how a node is written."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from sigmafield.comfyui.declare import NODES
from sigmafield.comfyui.definition import Definition
from sigmafield.core.registry import Registry


@cache
def all_nodes() -> Registry[Definition]:
    """The definitions of all node classes by class type; the first call imports them."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return NODES
