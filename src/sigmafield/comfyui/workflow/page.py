"""Prompts in API form → workflows that ComfyUI's page opens, with positions, links and widget values."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from sigmafield.comfyui.graph import is_link
from sigmafield.comfyui.workflow.classes import Classes, Input, inputs_of, outputs_of, title_of
from sigmafield.comfyui.workflow.document import Node
from sigmafield.comfyui.workflow.layout import boxes
from sigmafield.comfyui.workflow.texts import literal_text
from sigmafield.comfyui.workflow.widgets import MISSING, Widget, widgets_of
from sigmafield.core.registry import near_miss, shown

WIDTH, SLOT, WIDGET, LONG_TEXT = 270.0, 20.0, 26.0, 120.0
"""Pixels of the page: width of a node, heights of a slot, of a widget, and of a text of several lines."""


def to_page(prompt: Mapping[str, Mapping[str, Any]], classes: Classes) -> dict[str, Any]:
    """A workflow, version 0.4, that ComfyUI's page opens and from which it makes this prompt again.

    Seeds stay as they are from run to run. Ids that are not whole numbers, such as those inside subgraphs, become free
    numbers. Values that a class does not take are left out, as ComfyUI leaves them out.

    Args:
        prompt: A prompt in API form.
        classes: What the nodes' classes take: entries of `/object_info`.

    Raises:
        ValueError: A class is not known.
    """
    for name, node in prompt.items():
        kind = node["class_type"]
        if kind not in classes:
            raise ValueError(f"unknown node class {shown(kind)} (node {name}){near_miss(kind, classes)}")
    numbers = _numbers(prompt)
    links: list[list[Any]] = []
    nodes = {name: _node(numbers, name, node, classes, links, prompt) for name, node in prompt.items()}
    back = {number: name for name, number in numbers.items()}
    for link, origin, slot, *_ in links:
        outputs = nodes[back[origin]]["outputs"]
        if slot < len(outputs):
            outputs[slot]["links"].append(link)
    feeds = {name: [v[0] for v in n["inputs"].values() if is_link(v) and v[0] in prompt] for name, n in prompt.items()}
    placed = boxes(feeds, {name: (node["size"][0], node["size"][1]) for name, node in nodes.items()})
    for name, box in placed.items():
        nodes[name]["pos"] = [box.x, box.y]
    return {
        "last_node_id": max(numbers.values(), default=0), "last_link_id": len(links),
        "nodes": list(nodes.values()), "links": links, "groups": [], "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


def own_title(node: Mapping[str, Any]) -> str:
    """The title that a node of a prompt was given; "" without one."""
    meta = node.get("_meta")
    return str(meta.get("title") or "") if isinstance(meta, Mapping) else ""


def _numbers(prompt: Mapping[str, Any]) -> dict[str, int]:
    """A whole number for each id: itself, or a free one."""
    kept = {name: int(name) for name in prompt if name.isascii() and name.isdecimal() and str(int(name)) == name}
    free = (number for number in count(max(kept.values(), default=0) + 1))
    return {name: kept[name] if name in kept else next(free) for name in prompt}


def _node(
    numbers: Mapping[str, int],
    name: str,
    node: Mapping[str, Any],
    classes: Classes,
    links: list[list[Any]],
    prompt: Mapping[str, Any],
) -> dict[str, Any]:
    """One node of the page; its links are added to `links`."""
    kind, given = node["class_type"], node["inputs"]
    entry = classes[kind]
    values = {key: _unwrapped(value) for key, value in given.items() if not is_link(value)}
    widgets = widgets_of(entry, Node(name, kind, values=values))
    names, slots = {widget.name for widget in widgets if widget.input}, []
    types = {each.name: each.type for each in inputs_of(entry)}
    for key in [
        *(key for key in types if key not in names),
        *(key for key in given if key not in types or key in names),
    ]:
        value = given.get(key)
        linked = is_link(value) and value[0] in prompt
        if not linked and (key in names or types.get(key) in (None, "COMFY_AUTOGROW_V3")):
            continue  # a group that grows has slots for its values only
        link = len(links) + 1 if linked else None
        slot: dict[str, Any] = {"name": key, "type": types.get(key, "*"), "link": link}
        if key in names:
            slot["widget"] = {"name": key}
        if linked:
            origin, number = value[0], int(value[1])
            outputs = outputs_of(classes[prompt[origin]["class_type"]])
            type_ = outputs[number][1] if number < len(outputs) else "*"
            slot["type"] = type_ if slot["type"] == "*" else slot["type"]
            links.append([link, numbers[origin], number, numbers[name], len(slots), type_])
        slots.append(slot)
    outputs = [{"name": label, "type": type_, "links": []} for label, type_ in outputs_of(entry)]
    title = own_title(node)
    return {
        "id": numbers[name], "type": kind, "pos": [0, 0], "size": _size(slots, outputs, widgets), "flags": {},
        "order": 0, "mode": 0, "inputs": slots, "outputs": outputs,
        "properties": {"Node name for S&R": kind}, "widgets_values": [_kept(widget) for widget in widgets],
        **({"title": title} if title and title != title_of(kind, entry) else {}),
    }  # fmt: skip


def _kept(widget: Widget) -> Any:
    """A widget's value as the page keeps it, from which the same text is sent."""
    if widget.input is None:
        return "fixed" if widget.value == "randomize" else widget.value
    if widget.value is MISSING:
        return None
    dynamic = widget.input.type == "STRING" and widget.input.options.get("dynamicPrompts")
    return literal_text(widget.value) if dynamic and isinstance(widget.value, str) else widget.value


def _unwrapped(value: Any) -> Any:
    return value["__value__"] if isinstance(value, Mapping) and value.keys() == {"__value__"} else value


def _size(slots: list[Any], outputs: list[Any], widgets: list[Widget]) -> list[float]:
    """Width and height of a node on the page."""
    sockets = [slot for slot in slots if "widget" not in slot]
    height = SLOT * max(len(sockets), len(outputs), 1) + sum(_height(widget.input) for widget in widgets)
    return [WIDTH, height + WIDGET]


def _height(each: Input | None) -> float:
    return LONG_TEXT if each is not None and each.options.get("multiline") else WIDGET
