"""Inputs whose number depends on the values that are there, as a prompt has them: "sizing.width", "images.image0"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sigmafield.comfyui.definition import Slot

AUTOGROW, DYNAMIC = "COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3"


def declared(inputs: Iterable[Slot], given: Mapping[str, Any]) -> list[Slot]:
    """The inputs that a node has with these values, by the names that they have in a prompt.

    Args:
        inputs: The inputs of the class.
        given: Values by name.
    """
    return [each for slot in inputs for each in _flat(slot, given)]


def _flat(slot: Slot, given: Mapping[str, Any]) -> Iterator[Slot]:
    if slot.type == AUTOGROW:
        yield from _grown(slot, given)
    elif slot.type == DYNAMIC:
        options: Sequence[Mapping[str, Any]] = slot.options["options"]
        yield Slot(slot.name, "COMBO", {"options": [each["key"] for each in options]}, slot.required)
        chosen = next((each for each in options if each["key"] == given.get(slot.name)), None)
        for each in _children(chosen["inputs"] if chosen else {}, f"{slot.name}."):
            yield from _flat(each, given)
    else:
        yield slot


def _grown(slot: Slot, given: Mapping[str, Any]) -> Iterator[Slot]:
    """The values that a group has; as many as it must have are required."""
    template = slot.options["template"]
    [one] = _children(template["input"], "")
    names = template.get("names") or [f"{template['prefix']}{k}" for k in range(template["max"])]
    needed = template.get("min", 0) if slot.required else 0
    for k, name in enumerate(f"{slot.name}.{name}" for name in names):
        if k < needed or name in given:
            yield Slot(name, one.type, one.options, one.required and k < needed)


def _children(groups: Mapping[str, Mapping[str, Any]], prefix: str) -> list[Slot]:
    """Inputs in ComfyUI's form: {"required": {"x": ["INT", {…}]}, "optional": {…}}."""
    return [
        Slot(f"{prefix}{name}", *_spec(spec), required=group == "required")
        for group, inputs in groups.items()
        for name, spec in inputs.items()
    ]


def _spec(spec: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    kind, options = spec[0], dict(spec[1]) if len(spec) > 1 else {}
    return ("COMBO", options | {"options": list(kind)}) if isinstance(kind, (list, tuple)) else (kind, options)


def nested(inputs: Iterable[Slot], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of a prompt as the node receives them: {"sizing": {"sizing": "two", "width": 8}}.

    Args:
        inputs: The inputs of the class.
        given: Values by name in the prompt.
    """
    groups = [each for each in inputs if each.type in (AUTOGROW, DYNAMIC)]
    below = tuple(f"{each.name}." for each in groups)
    found = {name: value for name, value in given.items() if not name.startswith(below)}
    for group in groups:
        inside = {
            name[len(group.name) + 1 :]: value for name, value in given.items() if name.startswith(f"{group.name}.")
        }
        if group.type == AUTOGROW:
            found[group.name] = inside
        elif group.name in given:
            key = given[group.name][0] if isinstance(given[group.name], list) else given[group.name]
            chosen = next((each for each in group.options["options"] if each["key"] == key), None)
            found[group.name] = {
                group.name: given[group.name],
                **nested(_children(chosen["inputs"] if chosen else {}, ""), inside),
            }
    return found
