"""Node classes that workflows may have: ComfyUI's, and those of this project."""

from __future__ import annotations

from functools import cache

from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.object_info import object_info
from sigmafield.comfyui.workflow.classes import Classes, known_classes


@cache
def offered_classes() -> Classes:
    """Entries of `/object_info` of ComfyUI's core classes, whatever files there are, and of those of this project."""
    return {**{name: object_info(node) for name, node in all_nodes().items()}, **known_classes()}
