"""A prompt while it runs: its graph, and the results that there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sigmafield.comfyui.calls import arguments, blocked, calls
from sigmafield.comfyui.context import Context
from sigmafield.comfyui.definition import Definition
from sigmafield.comfyui.entries import Entry
from sigmafield.comfyui.graph import Graph, Link, link, links, literal
from sigmafield.comfyui.wire import declared
from sigmafield.core.registry import shown


@dataclass
class Known:
    """The graph, which grows with expansions, and the results of its nodes.

    Args:
        graph: The nodes.
        nodes: The classes by class type.
        results: Results by id.
    """

    graph: Graph
    nodes: Mapping[str, Definition]
    results: dict[str, Entry] = field(default_factory=dict[str, Entry])

    def definition(self, name: str) -> Definition:
        """The class of a node; ValueError if it is unknown."""
        kind = self.graph.nodes[name]["class_type"]
        if kind not in self.nodes:
            raise ValueError(f"node {name} is of an unknown class, {shown(kind)}")
        return self.nodes[kind]

    def early(self, name: str) -> bool:
        """Whether a node runs as soon as it can."""
        definition = self.definition(name)
        return definition.shows or definition.waits

    def sources(self, name: str) -> list[str]:
        """The nodes that must run before one: lazy inputs wait until the node asks for them."""
        if name in self.results:
            return []
        lazy = self.definition(name).needs is not None
        later = {key for key, each in self.options(name).items() if each.get("rawLink") or (lazy and each.get("lazy"))}
        found = {key: each for key, each in links(self.graph.nodes[name]).items() if key not in later}
        for key, each in found.items():
            if each.node not in self.graph.nodes:
                raise ValueError(f"input {key} of node {name} is linked to node {each.node}, which does not exist")
        return [each.node for each in found.values() if each.node not in self.results]

    def options(self, name: str) -> dict[str, Mapping[str, Any]]:
        """The options of a node's inputs."""
        given = {key: literal(each) for key, each in self.graph.nodes[name].get("inputs", {}).items()}
        return {each.name: each.options for each in declared(self.definition(name).inputs, given)}

    def lists(self, name: str) -> dict[str, Sequence[Any]]:
        """The values of a node's inputs; a lazy one that has not been computed is None, a raw link is [id, slot]."""
        found: dict[str, Sequence[Any]] = {}
        raw = {key for key, each in self.options(name).items() if each.get("rawLink")}
        for key, value in self.graph.nodes[name].get("inputs", {}).items():
            source = link(value)
            if source is None:
                found[key] = [literal(value)]
            elif key in raw:
                found[key] = [list(source)]
            else:
                found[key] = self.linked(source) if source.node in self.results else [None]
        return found

    def linked(self, source: Link) -> Sequence[Any]:
        """The values of an output; ValueError if the node does not have it."""
        values = self.results[source.node].values
        if not 0 <= source.slot < len(values):
            raise ValueError(
                f"node {source.node} has {len(values)} outputs, from 0; output {source.slot} was asked for"
            )
        return values[source.slot]

    def needed(self, name: str, lists: Mapping[str, Sequence[Any]], context: Context) -> list[str]:
        """The nodes of the lazy inputs that a node asks for and that have not run.

        Args:
            name: The node.
            lists: Its inputs.
            context: Its context.
        """
        definition, found = self.definition(name), links(self.graph.nodes[name])
        if definition.needs is None:
            return []
        missing = {key for key, each in found.items() if each.node not in self.results}
        wanted: list[str] = []
        for call in calls(definition, lists):
            if blocked(call, definition.takes_lists) is None:
                wanted += definition.needs.ask(arguments(definition, call), context) or ()
        return list(dict.fromkeys(found[each].node for each in wanted if each in missing))
