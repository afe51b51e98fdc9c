"""A workflow's graph with its subgraphs in place: each instance of one is a scope of its own, with its own values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property, partial
from typing import Any

from sigmafield.comfyui.workflow.classes import Classes, inputs_of, outputs_of, title_of
from sigmafield.comfyui.workflow.document import Document, Graph, Node, Slot
from sigmafield.comfyui.workflow.groups import group_as_subgraph
from sigmafield.comfyui.workflow.texts import filled_prefix
from sigmafield.comfyui.workflow.widgets import MISSING, Values, Widget, widgets_of

HOST = "-1"
"""What stands in `proxyWidgets` in place of an inner node's id for a widget of the instance itself."""

GROWING = "COMFY_AUTOGROW_V3"
"""Type of an input that stands for as many sockets as are used."""


class Scope:
    """A graph in its place: the root, or one instance of a subgraph.

    Args:
        document: The workflow.
        classes: Entries of `/object_info`.
        now: The time for %date:…% in texts; None is the current one.
        graph: Its graph; None is the root's.
        parent: The scope that the instance is in; None for the root.
        instance: The node there that stands for it.
    """

    def __init__(
        self,
        document: Document,
        classes: Classes,
        now: datetime | None = None,
        graph: Graph | None = None,
        parent: Scope | None = None,
        instance: Node | None = None,
    ):
        self.document = document
        self.classes = classes
        self.now = now or datetime.now()
        self.graph = document.root if graph is None else graph
        self.parent = parent
        self.instance = instance
        self._scopes: dict[str, Scope | None] = {}
        self._widgets: dict[str, list[Widget]] = {}

    def id(self, node: str) -> str:
        """The id of a node in the prompt: those of the instances around it and its own."""
        if self.parent is None or self.instance is None:
            return node
        return f"{self.parent.id(self.instance.id)}:{node}"

    def below(self, node: Node) -> Scope | None:
        """The scope of an instance of a subgraph, or of a group node; None for other nodes.

        Raises:
            ValueError: A subgraph contains itself.
        """
        if node.id not in self._scopes:
            graph = self.document.subgraphs.get(node.type)
            if graph is None and node.type in self.document.groups:
                graph = group_as_subgraph(node, self.document.groups[node.type], self.classes)
            if graph is not None and any(graph is scope.graph for scope in self.outwards()):
                raise ValueError(f"the subgraph {graph.name!r} contains itself, at node {self.id(node.id)}")
            found = None if graph is None else Scope(self.document, self.classes, self.now, graph, self, node)
            self._scopes[node.id] = found
        return self._scopes[node.id]

    def outwards(self) -> Iterator[Scope]:
        """This scope, the one around it, and so on up to the root."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def widgets(self, node: Node) -> list[Widget]:
        """The widgets of a node with their values, which `PrimitiveNode`s overwrite; of an instance the promoted ones.

        A class that is not known has none.
        """
        if node.id not in self._widgets:
            found = self._own_widgets(node)
            given = {name: value for (owner, name), value in self.primitives.items() if owner == node.id}
            found = [Widget(each.name, given.get(each.name, each.value), each.input) for each in found]
            self._widgets[node.id] = found
        return self._widgets[node.id]

    def _own_widgets(self, node: Node) -> list[Widget]:
        """The widgets of a node with the values that the file has for them."""
        below, entry = self.below(node), self.classes.get(node.type)
        if below is not None:
            return [Widget(below.port(k).name, value, None) for k, value in below.promoted.items()]
        return [] if entry is None else widgets_of(entry, node)

    def titled(self, title: str, name: str, own: bool = False) -> Any:
        """The value of a widget of the node with a title, in this graph or an outer one; None if it does not exist.

        Args:
            title: Its name in its properties, or its title.
            name: The widget's name.
            own: Take values as the file has them, without what a `PrimitiveNode` writes.
        """
        for place in self.outwards():
            nodes = list(place.graph.nodes.values())
            named = [node for node in nodes if node.properties.get("Node name for S&R") == title]
            others = [n for n in nodes if (n.title or title_of(n.type, place.classes.get(n.type, {}))) == title]
            for node in (*named, *others):
                for widget in place._own_widgets(node) if own else place.widgets(node):
                    if widget.name == name and widget.value is not MISSING:
                        return widget.value
        return None

    def value(self, node: Node, name: str) -> Any:
        """The value of a node's widget; `MISSING` if it has no such widget."""
        return next((widget.value for widget in self.widgets(node) if widget.name == name), MISSING)

    @cached_property
    def primitives(self) -> Mapping[tuple[str, str], Any]:
        """What `PrimitiveNode`s write into widgets, by (node, name of the input that is linked to one)."""
        found = {}
        for node in self.graph.nodes.values():
            for slot in node.inputs:
                link = self.graph.links.get(slot.link or "")
                origin = self.graph.nodes.get(link.origin) if link else None
                if origin is not None and origin.type == "PrimitiveNode":
                    value = Values(origin.values, origin.named).take("value", MISSING)
                    if isinstance(value, str) and origin.properties.get("Run widget replace on values"):
                        value = filled_prefix(value, partial(self.titled, own=True), self.now)
                    if value is not MISSING:
                        found[node.id, slot.name] = value
        return found

    def port(self, index: int) -> Slot:
        """An input of this subgraph."""
        return self.graph.inputs[index][0]

    @cached_property
    def promoted(self) -> Mapping[int, Any]:
        """Values of the inputs of this subgraph that stand for widgets in it, by number, as the instance has them."""
        found = {k: value for k in range(len(self.graph.inputs)) if (value := self._inner(k)) is not MISSING}
        node = self.instance
        if node is None:
            return found
        proxies = node.properties.get("proxyWidgets")
        proxies = json.loads(proxies) if isinstance(proxies, str) else proxies or []
        if isinstance(node.values, Mapping) or node.named or not any(str(entry[0]) == HOST for entry in proxies):
            values = Values(node.values, node.named)
            taken = {k: values.take(self.port(k).name, None) for k in found}
            found |= {k: value for k, value in taken.items() if value is not None}
        else:
            found |= self._by_name(found, zip([entry[:2] for entry in proxies], node.values))
        held_back = node.properties.get("proxyWidgetErrorQuarantine") or ()
        entries = [(entry["originalEntry"][:2], entry.get("hostValue")) for entry in held_back]
        return found | self._by_name(found, reversed(entries))

    def _by_name(self, known: Mapping[int, Any], entries: Any) -> dict[int, Any]:
        """Values of the instance's own widgets among entries ((node, name), value), by number of the input."""
        given = {name: value for (owner, name), value in entries if str(owner) == HOST and value is not None}
        return {k: given[self.port(k).name] for k in known if self.port(k).name in given}

    def _inner(self, index: int) -> Any:
        """The value of the first widget that an input of this subgraph is linked to; `MISSING` without such a link."""
        for number in self.graph.inputs[index][1]:
            link = self.graph.links.get(number)
            node = self.graph.nodes.get(link.target) if link else None
            name = next((slot.name for slot in node.inputs if slot.link == number), None) if node else None
            if node is not None and name is not None:
                value = self.value(node, name)
                if value is not MISSING:
                    return value
        return MISSING

    def slots(self, node: Node) -> list[Slot]:
        """The inputs of a node in the order of its class, or of its subgraph, with the file's links by name."""
        below, entry = self.below(node), self.classes.get(node.type)
        if below is not None:
            declared = [port for port, _ in below.graph.inputs]
        else:
            declared = [Slot(each.name, each.type) for each in inputs_of(entry or {}) if each.type != GROWING]
        left, found = list(node.inputs), []
        for slot in declared:
            match = next((each for each in left if each.name == slot.name), None)
            if match is None:
                found.append(Slot(slot.name, slot.type))
            else:
                left.remove(match)
                found.append(Slot(slot.name, slot.type if match.type == "*" else match.type, match.link))
        return [*found, *left]

    def output_type(self, node: Node, slot: int) -> str:
        """The type of a node's output."""
        declared: Sequence[tuple[str, str]] = outputs_of(self.classes.get(node.type, {}))
        if slot < len(node.outputs) and node.outputs[slot].type != "*":
            return node.outputs[slot].type
        return declared[slot][1] if slot < len(declared) else "*"
