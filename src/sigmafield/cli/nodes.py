"""`sigmafield nodes`: the node classes that workflows can use."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigmafield.cli.console import show_table
from sigmafield.cli.errors import complain, user_errors
from sigmafield.cli.groups import Json
from sigmafield.comfyui.context import Folders
from sigmafield.comfyui.custom_nodes import load_nodes
from sigmafield.comfyui.definition import Definition, Slot
from sigmafield.comfyui.nodes import all_nodes
from sigmafield.comfyui.object_info import object_info
from sigmafield.core.registry import named


def nodes(
    name: Annotated[str | None, Parameter(help="One of them, in full.")] = None,
    /,
    *,
    nodes: Annotated[Path | None, Parameter(help="Folder of custom nodes, the code of which is run.")] = None,
    json: Json = False,
) -> None:
    """List the node classes of ComfyUI that are offered, or explain one: inputs, ranges, outputs."""
    with user_errors():
        known = dict(all_nodes().items())
        if nodes is not None:
            loaded = load_nodes(nodes, known)
            for each, reason in loaded.refused.items():
                complain(f"{each} is left out: {reason}", kind="note")
            known |= loaded.nodes
        chosen = [named(known, name, "node class")] if name else [known[each] for each in sorted(known)]
    if json:
        print(json_.dumps({each.name: object_info(each) for each in chosen}, ensure_ascii=False))
    elif name:
        _explain(chosen[0])
    else:
        rows = [(each.name, each.title or "", each.category, each.doc) for each in chosen]
        show_table(("class", "title", "category", "what it does"), rows, "sigmafield nodes NAME explains one.")


def _explain(node: Definition) -> None:
    print(f"{node.name}{f' ({node.title})' if node.title else ''}: {node.doc}\n")
    rows = [
        (each.name, each.type, "" if each.required else "optional", _values(each.described(Folders())), each.doc)
        for each in node.inputs
    ]
    show_table(("input", "type", "", "values", ""), rows)
    outputs = ", ".join(f"{each.name} ({each.type}{', a list' if each.listed else ''})" for each in node.outputs)
    print(f"\noutputs: {outputs or 'none'}")


def _needed(slot: Slot) -> str:
    return "" if slot.required else "optional"


def _values(options: object) -> str:
    """The range, choices and default of an input."""
    given = options if isinstance(options, dict) else {}
    parts = [f"{given['min']} … {given.get('max', '')}"] if "min" in given else []
    choices = given.get("options")
    if isinstance(choices, list):
        names = [str(each["key"] if isinstance(each, dict) else each) for each in choices]
        parts.append(", ".join(names[:12]) + (", …" if len(names) > 12 else ""))
    return "; ".join([*parts, *([f"default {given['default']}"] if "default" in given else [])])
