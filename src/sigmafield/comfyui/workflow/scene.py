"""What there is to draw of a workflow: boxes with titles, slots and values, and links between slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sigmafield.comfyui.workflow.classes import Classes, title_of
from sigmafield.comfyui.workflow.document import BYPASSED, MUTED, Node, read_document
from sigmafield.comfyui.workflow.layout import Box
from sigmafield.comfyui.workflow.links import NOTES
from sigmafield.comfyui.workflow.page import LONG_TEXT, SLOT, WIDGET, WIDTH
from sigmafield.comfyui.workflow.scopes import Scope
from sigmafield.comfyui.workflow.widgets import MISSING, Widget

TITLE = 30.0
"""Pixels of a node's title bar, which is above its box."""


@dataclass(frozen=True)
class Row:
    """A widget: its name, its value as text, how high it is, and whether a link replaces its value."""

    name: str
    text: str
    height: float
    linked: bool = False


@dataclass(frozen=True)
class Shape:
    """A node to draw.

    Args:
        box: Where it is; its title bar is above that.
        title: Its title.
        inputs: (name, type) of its sockets.
        outputs: (name, type) of its outputs.
        rows: Its widgets.
        kind: "node", "note", "muted" or "bypassed".
    """

    box: Box
    title: str
    inputs: Sequence[tuple[str, str]]
    outputs: Sequence[tuple[str, str]]
    rows: Sequence[Row]
    kind: str = "node"

    def input_at(self, name: str) -> tuple[float, float]:
        """Where the dot of an input is: a socket's, or that of a widget which is linked."""
        for k, (socket, _) in enumerate(self.inputs):
            if socket == name:
                return self.box.x, self.box.y + SLOT * (k + 0.5)
        y = self.rows_top
        for row in self.rows:
            if row.name == name:
                return self.box.x, y + WIDGET / 2
            y += row.height
        return self.box.x, self.box.y + SLOT / 2

    def output_at(self, index: int) -> tuple[float, float]:
        """Where the dot of an output is."""
        return self.box.x + self.box.width, self.box.y + SLOT * (index + 0.5)

    @property
    def rows_top(self) -> float:
        """Where its widgets begin."""
        return self.box.y + SLOT * max(len(self.inputs), len(self.outputs)) + 4


@dataclass(frozen=True)
class Scene:
    """Nodes, links (from, to, type) in pixels, and groups (box, title)."""

    shapes: Sequence[Shape]
    links: Sequence[tuple[tuple[float, float], tuple[float, float], str]]
    groups: Sequence[tuple[Box, str]]


def scene_of(page: Mapping[str, Any], classes: Classes) -> Scene:
    """What there is to draw of a workflow of ComfyUI's page; subgraphs are boxes.

    Args:
        page: The JSON object of the file.
        classes: Entries of `/object_info`; of other classes the values have no names.

    Raises:
        ValueError: It is not a workflow.
    """
    document = read_document(page)
    scope = Scope(document, classes)
    places = {str(node["id"]): node for node in page["nodes"]}
    shapes = {name: _shape(scope, node, places[name]) for name, node in document.root.nodes.items()}
    links = []
    for node in document.root.nodes.values():
        for slot in node.inputs:
            link = document.root.links.get(slot.link or "")
            if link is not None and link.origin in shapes:
                start, end = shapes[link.origin].output_at(link.origin_slot), shapes[node.id].input_at(slot.name)
                links.append((start, end, link.type if link.type != "*" else slot.type))
    groups = [
        (Box(*map(float, group["bounding"])), str(group.get("title") or ""))
        for group in page.get("groups") or ()
        if len(group.get("bounding") or ()) == 4
    ]
    return Scene(list(shapes.values()), links, groups)


def _shape(scope: Scope, node: Node, place: Mapping[str, Any]) -> Shape:
    below = scope.below(node)
    title = node.title or (below.graph.name if below else title_of(node.type, scope.classes.get(node.type, {})))
    linked = {slot.name for slot in node.inputs if slot.link is not None}
    with_widget = {each["name"] for each in place.get("inputs") or () if each.get("widget")}
    known = below is not None or node.type in scope.classes
    widgets = [each for each in scope.widgets(node) if each.input or below] if known else _unknown(node)
    rows = [_row(each, linked) for each in widgets if each.value is not MISSING]
    names = {row.name for row in rows} | with_widget
    inputs = [(slot.name, slot.type) for slot in node.inputs if slot.name not in names]
    kind = {MUTED: "muted", BYPASSED: "bypassed"}.get(node.mode, "note" if node.type in NOTES else "node")
    folded = bool((place.get("flags") or {}).get("collapsed"))
    box = _box(place)
    if folded:
        box = Box(box.x, box.y, box.width, SLOT)
    if kind == "note":
        rows = [Row("", row.text, box.height) for row in rows[:1]]
    outputs = [(slot.name, slot.type) for slot in node.outputs]
    return Shape(box, title, inputs, outputs, [] if folded else rows, kind)


def _unknown(node: Node) -> list[Widget]:
    """The values of a node of an unknown class, with the names that the file has for them."""
    values = {**(node.values if isinstance(node.values, Mapping) else {}), **node.named}
    if values or isinstance(node.values, Mapping):
        return [Widget(name, value, None) for name, value in values.items()]
    return [Widget("", value, None) for value in node.values]


def _row(widget: Widget, linked: set[str]) -> Row:
    several = widget.input is not None and bool(widget.input.options.get("multiline"))
    is_linked = widget.name in linked
    text = "" if is_linked else str(widget.value)
    return Row(widget.name, text, LONG_TEXT if several and not is_linked else WIDGET, is_linked)


def _box(place: Mapping[str, Any]) -> Box:
    """Position and size of a node, which some files hold as {"0": x, "1": y}."""

    def pair(value: Any, default: tuple[float, float]) -> tuple[float, float]:
        numbers = list(value.values()) if isinstance(value, Mapping) else value
        return (float(numbers[0]), float(numbers[1])) if numbers and len(numbers) > 1 else default

    return Box(*pair(place.get("pos"), (0.0, 0.0)), *pair(place.get("size"), (WIDTH, 100.0)))
