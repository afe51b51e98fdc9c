"""A workflow as ComfyUI's page saves it, read into values: nodes, slots, links, subgraphs. Versions 0.4 and 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sigmafield.core.registry import shown

MUTED, BYPASSED = 2, 4
"""Modes of nodes that do not run: nothing is there; what comes in goes out."""

ENTRANCE, EXIT = "-10", "-20"
"""Ids that stand, in a subgraph's links, for its inputs and its outputs."""

RENAMED = {
    "T2IAdapterLoader": "ControlNetLoader", "ConditioningAverage ": "ConditioningAverage",
    "SDV_img2vid_Conditioning": "SVD_img2vid_Conditioning", "Load3DAnimation": "Load3D",
    "Preview3DAnimation": "Preview3D",
}  # fmt: skip
"""Classes that have another name now."""


@dataclass(frozen=True)
class Slot:
    """An input or an output of a node: its name, its type, and of an input the link into it."""

    name: str
    type: str = "*"
    link: str | None = None


@dataclass(frozen=True)
class Node:
    """A node of a graph.

    Args:
        id: Its id in its graph.
        type: Its class, a subgraph's id, or a type that only ComfyUI's page knows.
        mode: `MUTED`, `BYPASSED`, or another number, with which it runs.
        inputs: Its inputs that the file lists.
        outputs: Its outputs.
        values: Values of its widgets, in order or by name.
        named: The same by name, as newer versions write it; these hold where both say something.
        title: Its title, if it was given one.
        properties: Whatever else the page keeps with it.
    """

    id: str
    type: str
    mode: int = 0
    inputs: Sequence[Slot] = ()
    outputs: Sequence[Slot] = ()
    values: Sequence[Any] | Mapping[str, Any] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    properties: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        """Whether it is neither muted nor bypassed."""
        return self.mode not in (MUTED, BYPASSED)


@dataclass(frozen=True)
class Link:
    """A link from an output to an input, by ids of nodes and numbers of slots."""

    id: str
    origin: str
    origin_slot: int
    target: str
    target_slot: int
    type: str = "*"


@dataclass(frozen=True)
class Graph:
    """Nodes and links by id; of a subgraph also its name, and its inputs and outputs with the links at them."""

    nodes: Mapping[str, Node]
    links: Mapping[str, Link]
    name: str = ""
    inputs: Sequence[tuple[Slot, Sequence[str]]] = ()
    outputs: Sequence[tuple[Slot, Sequence[str]]] = ()


@dataclass(frozen=True)
class Document:
    """A workflow file: its graph, its subgraphs by id, and its group nodes, an older form of those, by type."""

    root: Graph
    subgraphs: Mapping[str, Graph]
    groups: Mapping[str, Mapping[str, Any]]


def is_prompt(value: object) -> bool:
    """Whether a JSON value is a prompt in API form: an object of nodes, each with a class and inputs."""
    if not isinstance(value, Mapping):
        return False
    nodes = [node for node in value.values() if isinstance(node, Mapping)]
    return bool(nodes) and all(
        isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), Mapping) for node in nodes
    )


def is_document(value: object) -> bool:
    """Whether a JSON value is a workflow as ComfyUI's page saves it."""
    return isinstance(value, Mapping) and isinstance(value.get("nodes"), list) and ("links" in value)


def read_document(value: Mapping[str, Any]) -> Document:
    """The values of a workflow file.

    Args:
        value: The JSON object in it.

    Raises:
        ValueError: It is not a workflow, or a node, slot or link of it is malformed.
    """
    if not is_document(value):
        raise ValueError(f"a workflow must be an object with nodes and links; got {shown(value)}")
    subgraphs = {str(each["id"]): _graph(each) for each in _definitions(value)}
    extra = value.get("extra")
    groups = extra.get("groupNodes") if isinstance(extra, Mapping) else None
    kinds = {f"workflow{mark}{name}": group for name, group in (groups or {}).items() for mark in ">/"}
    return Document(_graph(value), subgraphs, kinds)


def _definitions(value: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Subgraphs of a graph and of those in it."""
    definitions = value.get("definitions") or {}
    if not isinstance(definitions, Mapping):
        raise ValueError(f"a workflow's definitions must be an object; got {shown(definitions)}")
    for each in _list(definitions.get("subgraphs"), "definitions.subgraphs"):
        if not isinstance(each, Mapping) or "id" not in each or not is_document(each):
            raise ValueError(f"a subgraph must be an object with an id, nodes and links; got {shown(each)}")
        yield each
        yield from _definitions(each)


def _graph(value: Mapping[str, Any]) -> Graph:
    nodes = [read_node(node) for node in _list(value["nodes"], "nodes")]
    links = [read_link(link) for link in _list(value["links"], "links") if link is not None]
    ports = {
        side: [
            (_slot(port), [str(link) for link in port.get("linkIds") or ()]) for port in _list(value.get(side), side)
        ]
        for side in ("inputs", "outputs")
    }
    by_id, known = {node.id: node for node in nodes}, {link.id: link for link in links}
    return Graph(by_id, known, str(value.get("name") or ""), ports["inputs"], ports["outputs"])


def read_node(value: Mapping[str, Any], name: str | None = None) -> Node:
    """A node of a file; `name` is its id where the file does not give it one."""
    try:
        kind = str(value["type"])
        number = str(value["id"]) if name is None else name
    except (KeyError, TypeError):
        raise ValueError(f"a node must be an object with an id and a type; got {shown(value)}") from None
    values, named = value.get("widgets_values"), value.get("widgets_values_named")
    return Node(
        number,
        RENAMED.get(kind, kind),
        value.get("mode") or 0,
        [_slot(each) for each in _list(value.get("inputs"), "inputs")],
        [_slot(each) for each in _list(value.get("outputs"), "outputs")],
        values if isinstance(values, (list, Mapping)) else (),
        named if isinstance(named, Mapping) else {},
        str(value.get("title") or ""),
        value.get("properties") or {},
    )


def _slot(value: Any) -> Slot:
    if not isinstance(value, Mapping):
        raise ValueError(f"a slot of a node must be an object; got {shown(value)}")
    kind, link = value.get("type"), value.get("link")
    return Slot(str(value.get("name") or ""), type_text(kind), None if link is None else str(link))


def type_text(kind: object) -> str:
    """A slot's type as text; "*" fits every other, COMBO stands for a list of choices."""
    return "COMBO" if isinstance(kind, list) else "*" if kind in (None, "", 0, -1) else str(kind)


def read_link(value: Mapping[str, Any] | Sequence[Any]) -> Link:
    """A link of a file, in either form."""
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    try:
        whole: list[Any] = (
            [*map(value.__getitem__, keys), value.get("type")] if isinstance(value, Mapping) else [*value]
        )
        number, origin, out, target, into = whole[:5]
        kind = whole[5] if len(whole) > 5 else None
        return Link(str(number), str(origin), int(out), str(target), int(into), type_text(kind))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"a link must have an id, and nodes and slots that it joins; got {shown(value)}") from None


def _list(value: Any, name: str) -> Iterable[Any]:
    """A list that may be missing; a mapping, as some programs write it, stands for its values."""
    if value is None:
        return ()
    if isinstance(value, Mapping):
        return value.values()
    if not isinstance(value, list):
        raise ValueError(f"{name} of a workflow must be a list; got {shown(value)}")
    return value
