"""Group nodes, the form of subgraphs in old files: rewritten as subgraphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sigmafield.comfyui.workflow.classes import Classes
from sigmafield.comfyui.workflow.document import ENTRANCE, EXIT, Graph, Link, Node, Slot, read_node
from sigmafield.comfyui.workflow.widgets import widgets_of


def group_as_subgraph(outer: Node, group: Mapping[str, Any], classes: Classes) -> Graph:
    """The subgraph of a group node, whose inner nodes have the values of this node's widgets.

    Args:
        outer: The group node.
        group: What the file says about its type.
        classes: Entries of `/object_info`, which say how many widgets each inner node has.
    """
    nodes = [read_node(node, str(k)) for k, node in enumerate(group.get("nodes") or ())]
    nodes = _with_values(outer, nodes, classes)
    links = [
        Link(str(k), str(entry[0]), int(entry[1]), str(entry[2]), int(entry[3]))
        for k, entry in enumerate(group.get("links") or ())
    ]
    inside = {(link.target, link.target_slot): link.id for link in links}
    inputs, outputs, taken = [], [], set()
    for k, node in enumerate(nodes):
        slots = []
        for index, slot in enumerate(node.inputs):
            number = inside.get((node.id, index))
            if number is None:
                name = slot.name if slot.name not in taken else f"{node.title or node.type} {slot.name}"
                taken.add(name)
                number = f"in{len(inputs)}"
                links.append(Link(number, ENTRANCE, len(inputs), node.id, index, slot.type))
                inputs.append((Slot(name, slot.type), [number]))
            slots.append(replace(slot, link=number))
        nodes[k] = replace(node, inputs=slots)
    open_ends = {(str(entry[0]), int(entry[1])) for entry in group.get("external") or ()}
    used = {(link.origin, link.origin_slot) for link in links} - open_ends
    for node in nodes:
        for index, slot in enumerate(node.outputs):
            if (node.id, index) not in used:
                number = f"out{len(outputs)}"
                links.append(Link(number, node.id, index, EXIT, len(outputs), slot.type))
                outputs.append((slot, [number]))
    return Graph(
        {node.id: node for node in nodes}, {link.id: link for link in links}, outer.type, inputs, outputs
    )  # fmt: skip


def _with_values(outer: Node, nodes: list[Node], classes: Classes) -> list[Node]:
    """The inner nodes with the outer one's values, which are those of their widgets one after another."""
    if isinstance(outer.values, Mapping) or not outer.values:
        return nodes
    rest, found = list(outer.values), []
    for node in nodes:
        count = len(widgets_of(classes[node.type], node)) if node.type in classes else 0
        found.append(replace(node, values=rest[:count]) if rest and count else node)
        rest = rest[count:]
    return found
