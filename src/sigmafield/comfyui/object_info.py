"""What ComfyUI's `/object_info` says about a node class."""

from __future__ import annotations

from typing import Any

from sigmafield.comfyui.context import Folders
from sigmafield.comfyui.definition import Definition, Slot


def object_info(node: Definition, folders: Folders = Folders()) -> dict[str, Any]:
    """The entry of a node class.

    Args:
        node: The class.
        folders: Where the files are that its combos offer.
    """
    required = {each.name: described(each, node.version, folders) for each in node.inputs if each.required}
    optional = {each.name: described(each, node.version, folders) for each in node.inputs if not each.required}
    hidden = {name: kind if node.version == 1 else [kind] for name, kind in node.hidden.items()}
    groups = {"required": required} | {
        key: group for key, group in (("optional", optional), ("hidden", hidden)) if group
    }
    return {
        "input": groups,
        "input_order": {key: list(group) for key, group in groups.items()},
        "is_input_list": node.takes_lists,
        "has_intermediate_output": False,
        "output": [each.type for each in node.outputs],
        "output_is_list": [each.listed for each in node.outputs],
        "output_name": [each.name for each in node.outputs],
        "output_tooltips": [None for _ in node.outputs],
        "output_matchtypes": [each.template for each in node.outputs]
        if any(each.template for each in node.outputs)
        else None,
        "name": node.name,
        "display_name": node.title or (node.name if node.version == 1 else None),
        "description": node.doc,
        "python_module": node.module,
        "category": node.category,
        "output_node": node.shows,
        "deprecated": node.deprecated,
        "experimental": node.experimental,
        "api_node": False,
        "search_aliases": list(node.aliases),
    }


def described(slot: Slot, version: int, folders: Folders) -> list[Any]:
    """An input in ComfyUI's form: [type, options]; combos of version 1 have their options as the type."""
    options = slot.described(folders)
    if version == 1 and slot.type == "COMBO" and "options" in options:
        return [options.pop("options"), options]
    return [slot.type, options]
