"""Where the links of a workflow come from, through reroutes, bypassed nodes and the borders of subgraphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sigmafield.comfyui.workflow.document import BYPASSED, ENTRANCE, EXIT, MUTED, Node, Slot
from sigmafield.comfyui.workflow.scopes import Scope
from sigmafield.comfyui.workflow.widgets import MISSING, sent_value

NOTES = ("Note", "MarkdownNote", "Label (rgthree)", "Bookmark (rgthree)")
"""Types that only ComfyUI's page knows, and that have nothing to do with what runs."""

SWITCHES = tuple(
    f"{name} (rgthree)"
    for name in (
        "Fast Muter", "Fast Bypasser", "Fast Groups Muter", "Fast Groups Bypasser", "Fast Actions Button",
        "Node Collector", "Random Unmuter", "Mute / Bypass Repeater", "Mute / Bypass Relay",
    )
)  # fmt: skip
"""Types of a widespread pack that set the modes of others, which a file has already."""

REROUTES = ("Reroute", "Reroute (rgthree)")
"""Types that pass on what comes in."""

VIRTUAL = (*NOTES, *SWITCHES, *REROUTES, "PrimitiveNode", "SetNode", "GetNode")
"""Types that only ComfyUI's page knows: none of them is in a prompt."""


class Found(NamedTuple):
    """What an input gets: a link [id, slot], or a value."""

    value: Any


Seen = frozenset[tuple[str, str, int]]
"""Inputs and outputs that were visited."""


def of_input(scope: Scope, node: Node, slot: Slot, kind: str, seen: Seen = frozenset()) -> Found | None:
    """What comes into an input of a node; None where nothing does.

    Args:
        scope: Where the node is.
        node: The node.
        slot: The input.
        kind: Type of the input that the search began from.
        seen: What was visited; a circle ends the search.
    """
    link = scope.graph.links.get(slot.link or "")
    if link is None:
        return None
    if link.origin == ENTRANCE:
        return _entrance(scope, link.origin_slot, kind, seen)
    origin = scope.graph.nodes.get(link.origin)
    return None if origin is None else _of_output(scope, origin, link.origin_slot, kind, seen)


def _entrance(scope: Scope, index: int, kind: str, seen: Seen) -> Found | None:
    """What an input of a subgraph gets: the instance's link, else the value of its promoted widget."""
    parent, instance = scope.parent, scope.instance
    if parent is None or instance is None or not 0 <= index < len(scope.graph.inputs):
        return None
    found = of_input(parent, instance, parent.slots(instance)[index], kind, seen)
    if found is not None or index not in scope.promoted:
        return found
    value = parent.value(instance, scope.port(index).name)  # a PrimitiveNode may have overwritten it
    return None if value is MISSING else Found(sent_value(value))


def _of_output(scope: Scope, node: Node, index: int, kind: str, seen: Seen) -> Found | None:
    """What an output of a node stands for."""
    place = (scope.id(node.id), kind, index)
    if place in seen or node.mode == MUTED:
        return None
    seen |= {place}
    below = scope.below(node)
    if node.mode == BYPASSED:
        slots = scope.slots(node)
        number = _passed(slots, index, scope.output_type(node, index), kind)
        return None if number is None else of_input(scope, node, slots[number], kind, seen)
    if below is not None:
        return _exit(below, index, kind, seen)
    if node.type in (*REROUTES, "SetNode"):
        return of_input(scope, node, node.inputs[0], kind, seen) if node.inputs else None
    if node.type == "GetNode":
        return _variable(scope, node, kind, seen)
    return None if node.type in VIRTUAL else Found([scope.id(node.id), index])


def _exit(scope: Scope, index: int, kind: str, seen: Seen) -> Found | None:
    """What an output of a subgraph gets in it."""
    ports = scope.graph.outputs
    numbers: Sequence[str] = ports[index][1] if index < len(ports) else ()
    links = [scope.graph.links[number] for number in numbers if number in scope.graph.links]
    ends = [each for each in scope.graph.links.values() if (each.target, each.target_slot) == (EXIT, index)]
    for link in (*links, *ends):
        if link.origin == ENTRANCE:
            return _entrance(scope, link.origin_slot, kind, seen)
        if link.origin in scope.graph.nodes:
            return _of_output(scope, scope.graph.nodes[link.origin], link.origin_slot, kind, seen)
    return None


def _variable(scope: Scope, node: Node, kind: str, seen: Seen) -> Found | None:
    """What the SetNode of the same name, in this graph or in one around it, gets."""
    name = _first(node)
    for place in scope.outwards():
        for other in place.graph.nodes.values():
            if other.type == "SetNode" and other.inputs and _first(other) == name:
                return of_input(place, other, other.inputs[0], kind, seen)
    return None


def _first(node: Node) -> Any:
    values = node.values.values() if isinstance(node.values, Mapping) else node.values
    return next(iter(values), None)


def _passed(slots: Sequence[Slot], index: int, out: str, kind: str) -> int | None:
    """The number of the input whose content a bypassed node gives out.

    Args:
        slots: Its inputs.
        index: Number of the output.
        out: Type of the output.
        kind: Type that is wanted.
    """
    if not slots:
        return None
    if kind == "*":
        return index if index < len(slots) else 0
    if index < len(slots) and fits(slots[index].type, out) and fits(slots[index].type, kind):
        return index
    same = (k for k, slot in enumerate(slots) if slot.type == kind)
    near = (k for k, slot in enumerate(slots) if fits(slot.type, out) and fits(slot.type, kind))
    return next(same, next(near, None))


def fits(one: str, other: str) -> bool:
    """Whether two types can be linked: equal, or one is "*"; of lists of types any two of them."""
    ours, theirs = ({part.strip().lower() for part in kind.split(",")} for kind in (one, other))
    return "*" in ours | theirs or bool(ours & theirs)
