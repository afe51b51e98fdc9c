"""Workflows as ComfyUI's page saves them → prompts in API form, which run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from random import Random, SystemRandom
from typing import Any

from sigmafield.comfyui.graph import Prompt
from sigmafield.comfyui.replacements import replaced, with_former
from sigmafield.comfyui.workflow.classes import Classes, title_of
from sigmafield.comfyui.workflow.document import Node, read_document
from sigmafield.comfyui.workflow.links import VIRTUAL, of_input
from sigmafield.comfyui.workflow.scopes import Scope
from sigmafield.comfyui.workflow.texts import PREFIXED, dynamic_text, filled_prefix
from sigmafield.comfyui.workflow.widgets import Widget, sent_value
from sigmafield.core.registry import nearest, shown


def to_prompt(
    workflow: Mapping[str, Any], classes: Classes, *, random: Random | None = None, now: datetime | None = None
) -> Prompt:
    """The prompt in API form of a workflow as ComfyUI's page saves it, with a `_meta` of each node.

    Subgraphs and group nodes are flattened, with ids such as "5:12"; muted and bypassed nodes, reroutes, primitives,
    notes and Set/Get nodes are resolved. Nodes of a class that is not known and that another one has taken the place of
    become nodes of that one.

    Args:
        workflow: The JSON object of the file, version 0.4 or 1.
        classes: What the nodes' classes take: entries of `/object_info`.
        random: What chooses in dynamic prompts, "{red|blue} heart"; None is the system's.
        now: The time for %date:…% in file names; None is the current one.

    Raises:
        ValueError: It is not a workflow, or has nodes of unknown classes; the message lists these.
    """
    installed, classes = classes, with_former(classes)
    root = Scope(read_document(workflow), classes, now)
    if unknown := _missing(root):
        listed = ", ".join(_unknown(name, nodes, classes) for name, nodes in unknown.items())
        raise ValueError(
            f"unknown node {'class' if len(unknown) == 1 else 'classes'} {listed}: take what /object_info of a ComfyUI "
            "that has them gives, as `classes` or --object-info"
        )
    random = random or SystemRandom()
    prompt: dict[str, dict[str, Any]] = {}
    for scope, node in _running(root):
        entry = classes[node.type]
        inputs = {
            widget.name: sent_value(_text(scope, node, widget, random)) for widget in scope.widgets(node) if widget.sent
        }
        for slot in scope.slots(node):
            found = of_input(scope, node, slot, slot.type)
            if found is not None:
                inputs[slot.name] = found.value
        title = node.title or title_of(node.type, entry)
        prompt[scope.id(node.id)] = {"inputs": inputs, "class_type": node.type, "_meta": {"title": title}}
    return replaced(prompt, installed)


def missing_classes(workflow: Mapping[str, Any], classes: Classes) -> dict[str, list[str]]:
    """Ids of the nodes that would run and whose class is not known, by class.

    Args:
        workflow: The JSON object of a workflow file.
        classes: What is known: entries of `/object_info`.

    Raises:
        ValueError: It is not a workflow.
    """
    return _missing(Scope(read_document(workflow), with_former(classes)))


def _missing(root: Scope) -> dict[str, list[str]]:
    unknown: dict[str, list[str]] = {}
    for scope, node in _running(root):
        if node.type not in root.classes:
            unknown.setdefault(node.type, []).append(scope.id(node.id))
    return unknown


def _unknown(name: str, nodes: Sequence[str], classes: Classes) -> str:
    """An unknown class with its nodes and its near misses."""
    return f"{shown(name)} (node {', '.join(nodes)}{nearest(name, classes)})"


def _running(scope: Scope) -> Iterator[tuple[Scope, Node]]:
    """The nodes that are in the prompt, each with where it is."""
    for node in scope.graph.nodes.values():
        if not node.runs or (node.type in VIRTUAL and node.type not in scope.classes):
            continue
        below = scope.below(node)
        if below is None:
            yield scope, node
        else:
            yield from _running(below)


def _text(scope: Scope, node: Node, widget: Widget, random: Random) -> Any:
    """A widget's value, with its text resolved."""
    value = widget.value
    if not isinstance(value, str) or widget.input is None:
        return value
    if widget.input.type == "STRING" and widget.input.options.get("dynamicPrompts"):
        value = dynamic_text(value, random)
    if widget.name == "filename_prefix" and node.type in PREFIXED:
        value = filled_prefix(value, scope.titled, scope.now)
    return value
