"""Definitions of node classes that the server does not offer, read from the workflows that use them.

A workflow's nodes say the names and types of their links, the values of their widgets and, in newer files, the names of
these. That gives no ranges and no defaults, but entries of `/object_info` from which a converter knows which value
belongs to which input. Widgets of classes whose names no file says are called value_0, value_1, ….
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

CONTROLS = ("fixed", "increment", "decrement", "randomize")
"""Values of the widget that changes a seed after each run, which is not an input."""

BUTTONS = ("upload", "choose file to upload", "audioUI")
"""Widgets that are not inputs either."""

PAGE_ONLY = ("Note", "MarkdownNote", "Reroute", "PrimitiveNode")
LARGEST = 2**64 - 1

Node = Mapping[str, Any]
Values = list[tuple[str, Any]]


def nodes_of(workflow: Mapping[str, Any]) -> Iterator[Node]:
    """The nodes of a workflow and of its subgraphs that are not subgraphs themselves."""
    inner = (workflow.get("definitions") or {}).get("subgraphs", [])
    names = {each["id"] for each in inner}
    for graph in (workflow, *inner):
        yield from (node for node in graph["nodes"] if node["type"] not in names)


def definitions(workflows: Sequence[Mapping[str, Any]], known: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Entries of `/object_info` of the classes that workflows use and that are not known."""
    found: defaultdict[str, list[Node]] = defaultdict(list)
    for workflow in workflows:
        for node in nodes_of(workflow):
            if node["type"] not in known and node["type"] not in PAGE_ONLY:
                found[node["type"]].append(node)
    return {name: _definition(name, nodes) for name, nodes in found.items()}


def _definition(name: str, nodes: Sequence[Node]) -> dict[str, Any]:
    sockets = _sockets(nodes)
    widgets = _widgets([_values(node) for node in nodes], _kinds(nodes))
    groups = {"required": {**sockets["required"], **widgets}, "optional": sockets["optional"]}
    most = max((node.get("outputs") or [] for node in nodes), key=len)
    return {
        "input": groups, "input_order": {key: list(group) for key, group in groups.items()},
        "output": [each["type"] for each in most], "output_is_list": [False] * len(most),
        "output_name": [each["name"] for each in most], "name": name, "display_name": name, "description": "",
        "python_module": "nodes", "category": "", "output_node": not most or name.startswith(("Save", "Preview")),
    }  # fmt: skip


def _values(node: Node) -> Values:
    """(name, value) of the widgets of a node, in their order, with those that are not inputs."""
    listed = node.get("widgets_values")
    if named := node.get("widgets_values_named") or (listed if isinstance(listed, dict) else None):
        return list(named.items())
    names = [each["widget"]["name"] for each in node.get("inputs") or [] if each.get("widget")]
    values = listed or []
    controls = [k for k in range(1, len(values)) if _is_control(values[k], values[k - 1])]
    if len(names) != len(values) - len(controls):  # the file says only which widgets have links
        names = [f"value_{k}" for k in range(len(values) - len(controls))]
    for k in controls:
        names.insert(k, "control_after_generate")
    return list(zip(names, values))


def _is_control(value: Any, before: Any) -> bool:
    return value in CONTROLS and isinstance(before, int) and not isinstance(before, bool)


def _kinds(nodes: Sequence[Node]) -> dict[str, str]:
    """The types of widgets by name, where nodes have them among their inputs."""
    inputs = (each for node in nodes for each in node.get("inputs") or [] if each.get("widget"))
    return {each["widget"]["name"]: each["type"] for each in inputs}


def _widgets(rows: Sequence[Values], kinds: Mapping[str, str], prefix: str = "") -> dict[str, Any]:
    """The widgets that are inputs; those of a group, after its name and a dot, come with the value that has them."""
    named = any(not each.startswith(("value_", "control_")) for row in rows for each, _ in row)
    rows = [row for row in rows if not named or not any(each.startswith("value_") for each, _ in row)]
    seen: defaultdict[str, list[Any]] = defaultdict(list)
    made: dict[str, Any] = {}
    for row in sorted(rows, key=len, reverse=True):
        last = ""
        for name, value in row:
            short = name.removeprefix(prefix)
            if name in BUTTONS or not name.startswith(prefix) or "." in short:
                continue
            if name.startswith("control_after_generate") or (name in CONTROLS and value in CONTROLS):
                made[last][1]["control_after_generate"] = True
                continue
            seen[name].append(value)
            made.setdefault(name, ["", {}])
            last = name
    for name, spec in made.items():
        spec[0], more = _type(seen[name], kinds.get(name))
        spec[1] |= more
        if any(each.startswith(f"{name}.") for row in rows for each, _ in row):
            spec[:] = _group(name, rows, kinds)
    return {name.removeprefix(prefix): spec for name, spec in made.items()}


def _group(name: str, rows: Sequence[Values], kinds: Mapping[str, str]) -> list[Any]:
    by_value: defaultdict[str, list[Values]] = defaultdict(list)
    for row in rows:
        by_value[dict(row).get(name, "")].append(row)
    options = [
        {"key": value, "inputs": {"required": _widgets(found, kinds, f"{name}.")}}
        for value, found in by_value.items()
        if value
    ]
    return ["COMFY_DYNAMICCOMBO_V3", {"options": options}]


def _type(values: Sequence[Any], kind: str | None) -> tuple[str, dict[str, Any]]:
    """The type of a widget with its options, by its values."""
    given = [value for value in values if value is not None]
    if kind == "COMBO":
        return "COMBO", {"options": list(dict.fromkeys(map(str, given)))}
    if given and all(isinstance(value, bool) for value in given):
        return "BOOLEAN", {}
    if given and all(isinstance(value, (int, float)) for value in given):
        if kind == "FLOAT" or any(isinstance(value, float) for value in given):
            return "FLOAT", {"min": -1e18, "max": 1e18, "step": 1e-9}
        return "INT", {"min": -LARGEST, "max": LARGEST}
    return "STRING", {"multiline": True}


def _sockets(nodes: Sequence[Node]) -> dict[str, dict[str, Any]]:
    """Inputs that are not widgets; those with a number after a name and a dot are one input that grows."""
    kinds, counts, optional = dict[str, str](), Counter[str](), set[str]()
    for node in nodes:
        for each in node.get("inputs") or []:
            if not each.get("widget"):
                kinds.setdefault(each["name"], each["type"])
                counts[each["name"]] += 1
                optional |= {each["name"]} if each.get("shape") == 7 else set()
    made: dict[str, dict[str, Any]] = {"required": {}, "optional": {}}
    for name, kind in kinds.items():
        if found := re.fullmatch(r"(\w+)\.([A-Za-z_]+)\d+", name):
            one = {"required": {found[2]: [kind, {}]}}
            made["optional"][found[1]] = [
                "COMFY_AUTOGROW_V3", {"template": {"input": one, "prefix": found[2], "min": 0, "max": 100}},
            ]  # fmt: skip
        else:
            needed = counts[name] == len(nodes) and name not in optional
            made["required" if needed else "optional"][name] = [kind, {}]
    return made
