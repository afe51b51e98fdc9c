"""The classes that ComfyUI loads, generated from the definitions of our nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from sigmafield.comfyui.context import Context, Outcome
from sigmafield.comfyui.definition import Definition
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.nodes.any_sampler import PACK
from sigmafield.comfyui.pack import host
from sigmafield.comfyui.pack.model import node_model
from sigmafield.comfyui.pack.sampler import HostSampler, ours
from sigmafield.comfyui.pack.stepping import CALLS
from sigmafield.comfyui.v1 import v1_class

TAKEN = ("QuadtreeTiles",)
"""Nodes of other packs that no such pack has inside ComfyUI, and whose values ours take."""


def node_classes() -> tuple[dict[str, type], dict[str, str]]:
    """ComfyUI's NODE_CLASS_MAPPINGS and NODE_DISPLAY_NAME_MAPPINGS.

    Raises:
        ImportError: ComfyUI's modules are not there.
    """
    host.folders()
    nodes = offered()
    return (
        {each.name: v1_class(inside(each), host.folders) for each in nodes},
        {each.name: each.title or each.name for each in nodes},
    )


def offered() -> list[Definition]:
    """The definitions of the nodes that the pack has, by name."""
    return [node for name, node in sorted(all_nodes().items()) if node.module == PACK or name in TAKEN]


def inside(node: Definition) -> Definition:
    """A node that takes and gives ComfyUI's values.

    Args:
        node: The node.
    """
    if node.name in CALLS:
        return replace(node, call=CALLS[node.name])
    types = {each.name: each.type for each in node.inputs}

    def call(inputs: Mapping[str, Any], context: Context) -> Outcome:
        made = node.call({key: taken(types.get(key), value, node.name) for key, value in inputs.items()}, context)
        assert isinstance(made, Outcome), f"{node.name} runs a sampler itself: it needs an entry of CALLS"
        return replace(made, values=tuple(map(given, (each.type for each in node.outputs), made.values)))

    return replace(node, call=call)


def taken(kind: str | None, value: Any, by: str) -> Any:
    """ComfyUI's value of a type as ours; `by`: the node that takes it."""
    if kind == "MODEL":
        return node_model(value)
    if kind == "SAMPLER":
        return ours(value, by)
    return value.cpu() if isinstance(value, torch.Tensor) else value


def given(kind: str, value: Any) -> Any:
    """Our value of a type as ComfyUI's."""
    if kind == "SAMPLER":
        return HostSampler(value)
    return value.float() if kind == "SIGMAS" else value
