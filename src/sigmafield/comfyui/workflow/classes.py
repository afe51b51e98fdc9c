"""Node classes as ComfyUI's `/object_info` describes them: their inputs, outputs and titles."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from sigmafield.core.registry import near_miss, shown

Classes = Mapping[str, Mapping[str, Any]]
"""Entries of `/object_info`, by class."""

WIDGETS = frozenset([
    "INT", "FLOAT", "BOOLEAN", "STRING", "COMBO", "MARKDOWN", "TEXTAREA", "COLOR", "COLORS", "CHART", "GALLERIA",
    "IMAGECOMPARE", "IMAGEUPLOAD", "AUDIO_UI", "AUDIOUPLOAD", "AUDIO_RECORD", "WEBCAM", "LOAD_3D", "PREVIEW_3D",
    "VIDEO_EDIT", "PAINTER", "BOUNDING_BOXES", "CURVE", "COMFY_DYNAMICCOMBO_V3",
])  # fmt: skip
"""Types whose inputs are widgets: they hold a value of their own unless a link replaces it."""

DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
"""A choice that brings further inputs, which depend on what is chosen."""

ZERO = {"INT": 0, "FLOAT": 0, "BOOLEAN": False, "STRING": ""}
"""Values of widgets that declare no default, by type."""


KINDS: Mapping[str, type | tuple[type, ...]] = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
"""Types of values that inputs of these types take."""


@dataclass(frozen=True)
class Input:
    """One input of a class.

    Args:
        name: Its name; of a sub-input of a dynamic combo with the combo's, "format.codec".
        type: Type of its widget or socket; COMBO for a list of choices.
        options: What the class says about it.
    """

    name: str
    type: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def widget(self) -> bool:
        """Whether it is a widget; else it is only a socket."""
        return self.type in WIDGETS and self.options.get("forceInput") is not True

    @property
    def choices(self) -> Sequence[Any]:
        """What a combo offers; of a dynamic one the keys. Empty where the list is of files or comes from a server."""
        offered = self.options.get("options")
        if not isinstance(offered, list):
            return ()
        if self.type == DYNAMIC_COMBO:
            return [option["key"] for option in offered if isinstance(option, Mapping) and "key" in option]
        return offered

    @property
    def default(self) -> Any:
        """The value of a widget that nothing else gives a value; None if it has none."""
        if "default" in self.options:
            return self.options["default"]
        if self.type in ("COMBO", DYNAMIC_COMBO):
            return self.choices[0] if self.choices else None
        return ZERO.get(self.type)

    def below(self, chosen: object) -> list[Input]:
        """Inputs that a choice of a dynamic combo brings."""
        offered = self.options.get("options", []) if self.type == DYNAMIC_COMBO else []
        for option in offered:
            if option.get("key") == chosen:
                return list(_inputs(option.get("inputs", {}), {}, f"{self.name}."))
        return []


def inputs_of(entry: Mapping[str, Any]) -> list[Input]:
    """The inputs of a class in their order: required ones, then optional ones.

    Args:
        entry: Its entry of `/object_info`.
    """
    return list(_inputs(entry.get("input", {}), entry.get("input_order", {}), ""))


def _inputs(groups: Mapping[str, Any], order: Mapping[str, Any], prefix: str) -> Iterator[Input]:
    for kind in ("required", "optional"):
        specs: Mapping[str, Any] = groups.get(kind) or {}
        names = [name for name in order.get(kind) or () if name in specs]
        for name in [*names, *(name for name in specs if name not in names)]:
            yield _input(prefix + name, specs[name])


def _input(name: str, spec: Sequence[Any]) -> Input:
    kind, *rest = spec if isinstance(spec, (list, tuple)) and spec else ["*"]
    options = rest[0] if rest and isinstance(rest[0], Mapping) else {}
    if isinstance(kind, list):
        kind, options = "COMBO", {**options, "options": kind}
    return Input(name, str(options.get("widgetType") or kind), options)


def outputs_of(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, type) of each output of a class; a list of choices has the type COMBO."""
    types = ["COMBO" if isinstance(kind, list) else str(kind) for kind in entry.get("output") or ()]
    names = list(entry.get("output_name") or ())
    return [(str(names[k]) if k < len(names) else kind, kind) for k, kind in enumerate(types)]


def title_of(name: str, entry: Mapping[str, Any]) -> str:
    """The title that a node of a class has by default."""
    return entry.get("display_name") or entry.get("name") or name


@cache
def known_classes() -> Classes:
    """ComfyUI's core classes that concern images, in the form of `/object_info`, without lists of files."""
    return json.loads((files("sigmafield") / "data" / "comfyui_classes.json").read_text("utf-8"))


def check_value(name: str, declared: Input, value: object) -> None:
    """Raise ValueError for a value that an input does not take: wrong type, out of range, not one of the choices.

    Args:
        name: What the input is called, for errors.
        declared: What the class says about it.
        value: The value.
    """
    if not declared.widget:
        raise ValueError(f"{name} takes a link [id, slot] to a {declared.type}; got {shown(value)}")
    kinds = KINDS.get(declared.type)
    wrong = kinds is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool))
    if wrong:
        raise ValueError(f"{name} must be of type {declared.type}; got {shown(value)}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = declared.options.get("min"), declared.options.get("max")
        if not (low is None or low <= value) or not (high is None or value <= high):
            raise ValueError(f"{name} must be from {low} to {high}; got {shown(value)}")
    if declared.choices and value not in declared.choices:
        raise ValueError(f"{name} has no choice {shown(value)}{near_miss(str(value), map(str, declared.choices))}")
