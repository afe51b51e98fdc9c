"""Graphs in the form of ComfyUI's API: {"3": {"class_type": "KSampler", "inputs": {"seed": 5, "model": ["4", 0]}}}."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple, cast

Prompt = Mapping[str, Mapping[str, Any]]
"""Nodes by id; values that are lists are links, others are literals."""


class Link(NamedTuple):
    """An output of a node: its id, and which of its outputs."""

    node: str
    slot: int


def link(value: Any) -> Link | None:
    """The link that an input's value is; None for a literal."""
    if not isinstance(value, (list, tuple)):
        return None
    items = cast("list[Any]", value)
    if len(items) != 2 or not isinstance(items[0], str) or isinstance(items[1], bool):
        return None
    return Link(items[0], int(items[1])) if isinstance(items[1], (int, float)) else None


def is_link(value: object) -> bool:
    """Whether an input's value is a link, and not a literal."""
    return link(value) is not None


def literal(value: Any) -> Any:
    """The value that an input's literal stands for: lists are wrapped, as {"__value__": […]}."""
    if isinstance(value, Mapping) and "__value__" in value:
        return cast("Mapping[str, Any]", value)["__value__"]
    return value


def links(node: Mapping[str, Any]) -> dict[str, Link]:
    """The links of a node by input."""
    found = {name: link(value) for name, value in node.get("inputs", {}).items()}
    return {name: each for name, each in found.items() if each is not None}


def upstream_first(prompt: Prompt, roots: Iterable[str], without: Collection[str] = ()) -> list[str]:
    """The nodes that lead to some nodes, and these, each after those that it has links from.

    Args:
        prompt: The nodes.
        roots: The nodes where the search starts.
        without: Nodes that are passed over, with what leads to nothing else.

    Raises:
        ValueError: Links form a cycle.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter()
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in seen or name not in prompt:
            continue
        seen.add(name)
        found = (each.node for each in links(prompt[name]).values())
        sources = [each for each in found if each in prompt and each not in without]
        sorter.add(name, *sources)
        waiting.extend(sources)
    try:
        return list(sorter.static_order())
    except CycleError as error:
        raise ValueError(f"nodes form a cycle: {' → '.join(error.args[1])}") from None


@dataclass(frozen=True)
class Graph:
    """A prompt while it runs: its nodes, and those that have taken the place of nodes.

    Args:
        nodes: All nodes by id.
        parents: Which node was expanded, for nodes that come from an expansion.
        origins: The node of the prompt that they come from.
        displays: The node that stands for them in an interface.
    """

    nodes: Prompt
    parents: Mapping[str, str] = field(default_factory=dict[str, str])
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    displays: Mapping[str, str] = field(default_factory=dict[str, str])

    def display(self, name: str) -> str:
        """The node that an interface shows in place of one."""
        seen: set[str] = set()
        while name in self.displays and name not in seen:
            seen.add(name)
            name = self.displays[name]
        return name

    def real(self, name: str) -> str:
        """The node of the prompt that a node comes from."""
        return self.origins.get(name, name)

    def expanded(
        self, parent: str, call: int, nodes: Prompt, results: Iterable[Any]
    ) -> tuple[Graph, list[str], list[Any]]:
        """The graph with the nodes of an expansion, whose ids begin with the parent's: "5.0.0.1".

        Args:
            parent: The node that they take the place of.
            call: Which call of the parent gave them.
            nodes: The new nodes; links lead to each other or to nodes of the graph.
            results: Values of the parent's outputs, which may be links to the new nodes.

        Returns:
            The graph, the ids of the new nodes, and the results with these ids.
        """
        names = {name: name if name.startswith(f"{parent}.") else f"{parent}.{call}.0.{name}" for name in nodes}
        if taken := [name for name in names.values() if name in self.nodes]:
            raise ValueError(f"node {parent} was expanded to node {taken[0]}, which exists")

        def renamed(value: Any) -> Any:
            found = link(value)
            return value if found is None else [names.get(found.node, found.node), found.slot]

        made = {
            names[name]: {**node, "inputs": {key: renamed(value) for key, value in node.get("inputs", {}).items()}}
            for name, node in nodes.items()
        }
        shown = {names[name]: self.display(node.get("override_display_id") or parent) for name, node in nodes.items()}
        graph = replace(
            self,
            nodes={**self.nodes, **made},
            parents={**self.parents, **dict.fromkeys(made, parent)},
            origins={**self.origins, **dict.fromkeys(made, self.real(parent))},
            displays={**self.displays, **shown},
        )
        return graph, list(made), [renamed(each) for each in results]
