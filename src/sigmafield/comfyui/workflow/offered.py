"""Node classes that workflows may have: ComfyUI's, and those of this project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from sigmafield.comfyui.workflow.classes import Classes, known_classes


@cache
def offered_classes() -> Classes:
    """Entries of `/object_info` of ComfyUI's core classes, whatever files there are, and of those of this project."""
    return _Offered()


class _Offered(Mapping[str, Mapping[str, Any]]):
    """The nodes of this project are imported, with torch, where a name is not one of ComfyUI's, or all are listed."""

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        known = known_classes()
        return known[name] if name in known else _all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_all())

    def __len__(self) -> int:
        return len(_all())


@cache
def _all() -> Classes:
    from sigmafield.comfyui.nodes import all_nodes
    from sigmafield.comfyui.object_info import object_info

    return {**{name: object_info(node) for name, node in all_nodes().items()}, **known_classes()}
