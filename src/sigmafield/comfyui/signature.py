"""The inputs and outputs of a node, read from the signature of its function."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sigmafield.comfyui.context import Context, Expanded, Remarked, Shown
from sigmafield.comfyui.definition import Output, Slot
from sigmafield.comfyui.sockets import Autogrow, Choices, Dynamic, Hidden, Input, Match, Socket, note
from sigmafield.core.annotations import Range, is_sequence, split
from sigmafield.core.parameters import Parameter, check, fields_of, parameters

WIDGETS: dict[Any, str] = {bool: "BOOLEAN", int: "INT", float: "FLOAT", str: "STRING"}
"""ComfyUI's names of plain types."""

NOTHING = inspect.Parameter.empty


def inputs_of(function: Callable[..., Any], version: int, takes_lists: bool) -> tuple[Slot, ...]:
    """The inputs of a function, the required ones first.

    Args:
        function: The function, all parameters of which are annotated.
        version: Version of the class: in 1, the default of a combo that is its first option is not written.
        takes_lists: Whether each parameter is a sequence of values.

    Raises:
        TypeError: A parameter has a type that is not a widget, and no note says what it is.
    """
    hints = get_type_hints(function, include_extras=True)
    docs = {each.name: each.doc for each in parameters(function, lambda argument: argument.name in hints)}
    found: list[Slot] = []
    for each in inspect.signature(function).parameters.values():
        hint, default = hints.get(each.name), each.default
        if hint is Context or each.kind is inspect.Parameter.VAR_KEYWORD or note(hint, Hidden) is not None:
            continue
        if takes_lists and hint is not None:
            hint = next((get_args(kind)[0] for kind in split(hint)[0] if is_sequence(kind)), hint)
            default = default[0] if isinstance(default, tuple) else default
        found.append(slot(each.name, hint, default, version, docs.get(each.name, "")))
    return tuple(sorted(found, key=lambda each: not each.required))


def slot(name: str, hint: Any, default: Any, version: int, doc: str = "") -> Slot:
    """An input from its annotation; TypeError if its type is unknown. `default`: `NOTHING` without one."""
    settings = note(hint, Input) or Input()
    kind, options = _type(name, hint, version)
    choices = note(hint, Choices)
    if kind == "COMBO" and version == 3:
        options["multiselect"] = False
    if kind == "STRING" and version == 3:
        options["multiline"] = False
    if default is not NOTHING and default is not None:
        first = options.get("options", [None])[0] if kind == "COMBO" and choices is None else None
        if version == 3 or default != first:
            options["default"] = default
    optional = settings.optional or default is None
    return Slot(name, kind, options | settings.options(), not optional, choices, doc)


def _type(name: str, hint: Any, version: int) -> tuple[str, dict[str, Any]]:
    """ComfyUI's type of an annotation and the options that follow from it."""
    if (socket := note(hint, Socket)) is not None:
        return socket.type, _bounds(hint, split(hint)[0])
    if (match := note(hint, Match)) is not None:
        return "COMFY_MATCHTYPE_V3", {"template": {"template_id": match.template, "allowed_types": match.allowed}}
    if (group := note(hint, Autogrow)) is not None:
        one = slot(group.input, group.of, NOTHING, version)
        ends: dict[str, Any] = {"names": list(group.names)} if group.names else {"prefix": group.prefix}
        ends |= {"min": group.min} | ({} if group.names else {"max": group.max})
        template = {"input": {"required": {one.name: [one.type, dict(one.options)]}}} | ends
        return "COMFY_AUTOGROW_V3", {"template": template}
    if (dynamic := note(hint, Dynamic)) is not None:
        return "COMFY_DYNAMICCOMBO_V3", {
            "options": [{"key": key, "inputs": _fields(cls, version)} for key, cls in dynamic.options.items()]
        }
    if note(hint, Choices) is not None:
        return "COMBO", {}
    kinds, _ = split(hint)
    literal = [value for each in kinds if get_origin(each) is Literal for value in get_args(each)]
    if literal:
        return "COMBO", {"options": literal}
    plain = next((each for each in kinds if each in WIDGETS), None)
    if plain is None:
        raise TypeError(f"{name} is of type {hint}, which is not a widget: it needs a note, such as Socket('LATENT')")
    return WIDGETS[plain], _bounds(hint, kinds)


def _bounds(hint: Any, kinds: Sequence[Any]) -> dict[str, Any]:
    """{"min", "max"} of the range in an annotation."""
    within: Range | None = split(hint)[1]
    if within is None:
        return {}
    ends = {"min": within.low} | ({} if within.high is None else {"max": within.high})
    return {key: float(end) if float in kinds else end for key, end in ends.items()}


def _fields(cls: type, version: int) -> dict[str, dict[str, Any]]:
    """The fields of an option of a dynamic combo, as inputs in ComfyUI's form."""
    hints = get_type_hints(cls, include_extras=True)
    found: dict[str, dict[str, Any]] = {"required": {}}
    for each in dataclasses.fields(cls):
        default = NOTHING if each.default is dataclasses.MISSING else each.default
        one = slot(each.name, hints[each.name], default, version)
        found.setdefault("required" if one.required else "optional", {})[one.name] = [one.type, dict(one.options)]
    return found


def objects_of(hints: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs with dicts of dynamic combos, {"name": key, "field": value, …}, made into objects of their dataclasses.

    Raises:
        ValueError: A field is missing, has another type or is out of range.
    """
    found = dict(inputs)
    for name, hint in hints.items():
        dynamic, value = note(hint, Dynamic), inputs.get(name)
        if dynamic is not None and isinstance(value, Mapping):
            cls = dynamic.options[value[name]]
            given = objects_of(get_type_hints(cls, include_extras=True), value)
            known = {key: each for key, each in fields_of(cls).items() if _is_widget(each)}
            check(value[name], known, {key: each for key, each in given.items() if key in known})
            found[name] = cls(**{key: each for key, each in given.items() if key in fields_of(cls)})
    return found


def _is_widget(parameter: Parameter) -> bool:
    return parameter.kind is not None or bool(parameter.choices)


def outputs_of(hint: Any, names: Sequence[str]) -> tuple[Output, ...]:
    """The outputs that a return annotation declares.

    Args:
        hint: The annotation.
        names: Names of the outputs, where they are not their types.

    Raises:
        TypeError: The number of names is not that of the outputs.
    """
    for origin, at in ((Generator, 2), (Shown, 0), (Remarked, 0), (Expanded, 0)):
        if get_origin(hint) is origin:
            return outputs_of(get_args(hint)[at], names)
    if hint is None or hint is type(None):
        return ()
    each = list(get_args(hint)) if get_origin(hint) is tuple else [hint]
    if names and len(names) != len(each):
        raise TypeError(f"{len(each)} outputs are annotated and {len(names)} are named: {', '.join(names)}")
    return tuple(_output(one, name) for one, name in zip(each, names or [None] * len(each), strict=True))


def _output(hint: Any, name: str | None) -> Output:
    socket, match = note(hint, Socket), note(hint, Match)
    kind, _ = _type(name or "an output", hint, 3)
    shown = name or ("MATCHTYPE" if match else kind)
    return Output(kind, shown, bool(socket and socket.listed), match.template if match else None)
