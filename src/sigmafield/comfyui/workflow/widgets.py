"""Values of a node's widgets: which widgets its class has, in which order, and which value of the file is whose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sigmafield.comfyui.workflow.classes import Input, inputs_of
from sigmafield.comfyui.workflow.document import Node

SEEDS = ("seed", "noise_seed")
"""INT inputs with these names have a widget for what happens to them after a run, unless the class says otherwise."""

UPLOADS = ("image_upload", "video_upload", "animated_image_upload")
"""Options of a combo that a button for uploads belongs to."""

NOT_SENT = ("AUDIO_UI", "AUDIOUPLOAD", "AUDIO_RECORD", "IMAGEUPLOAD", "IMAGECOMPARE")
"""Types of widgets that have a position among the values, and no part in a prompt."""

MISSING = object()
"""The value of a widget that has none."""


@dataclass(frozen=True)
class Widget:
    """A widget of a node and its value.

    Args:
        name: Its name.
        value: Its value, or `MISSING`.
        input: The input that it belongs to; None for widgets of the page alone, such as a seed's control.
    """

    name: str
    value: Any
    input: Input | None

    @property
    def sent(self) -> bool:
        """Whether a prompt has its value."""
        return self.input is not None and self.input.type not in NOT_SENT and self.value is not MISSING


class Values:
    """The values of a file, which widgets take in their order or by their names.

    Args:
        given: Values in order, or by name.
        named: Values by name, which come first.
    """

    def __init__(self, given: Sequence[Any] | Mapping[str, Any], named: Mapping[str, Any]):
        self._named = {**given, **named} if isinstance(given, Mapping) else named
        self._listed = iter(() if isinstance(given, Mapping) else given)

    def take(self, name: str, default: Any) -> Any:
        """The value of the widget that is next; its name decides where values have names."""
        listed = next(self._listed, MISSING)
        if name in self._named:
            return self._named[name]
        return default if listed is MISSING else listed


def extras_of(each: Input) -> list[tuple[str, Any]]:
    """(name, default) of the widgets that follow an input's and are the page's alone."""
    control, found = each.options.get("control_after_generate"), []
    if each.type == "INT" and (control or (control is None and each.name.rpartition(".")[2] in SEEDS)):
        found = [(_control_name(control), "randomize")]
    elif each.type == "FLOAT" and control:
        found = [(_control_name(control), "fixed")]
    elif each.type == "COMBO" and control:
        found = [(_control_name(control), "randomize"), ("control_filter_list", "")]
    remote = each.options.get("remote")
    if isinstance(remote, Mapping) and remote.get("refresh_button"):
        found.append(("refresh", ""))
    return found


def _control_name(control: object) -> str:
    return control if isinstance(control, str) else "control_after_generate"


def widgets_of(entry: Mapping[str, Any], node: Node) -> list[Widget]:
    """The widgets of a node with their values, in their order.

    Args:
        entry: Its class in `/object_info`.
        node: The node.
    """
    inputs = inputs_of(entry)
    given = node.values
    if not isinstance(given, Mapping) and not node.named:
        given = _without_forced(inputs, given)
    found = list(_walk(inputs, Values(given, node.named)))
    if any(each.type == "COMBO" and any(each.options.get(key) for key in UPLOADS) for each in inputs):
        found.append(Widget("upload", "image", None))
    return [_repaired(node.type, widget) for widget in found]


def _walk(inputs: Sequence[Input], values: Values) -> Iterator[Widget]:
    for each in inputs:
        if not each.widget:
            continue
        none = each.default is None and "default" not in each.options
        value = values.take(each.name, MISSING if none else each.default)
        yield Widget(each.name, value, each)
        for name, default in extras_of(each):
            yield Widget(name, values.take(name, default), None)
        yield from _walk(each.below(value), values)


def _without_forced(inputs: Sequence[Input], given: Sequence[Any]) -> Sequence[Any]:
    """Values of an old file without those of inputs that are sockets now; others as they are."""
    held = [each for each in inputs if each.widget or each.options.get("forceInput")]
    owners = [each for each in held for _ in range(1 + bool(_has_control(each)))]
    if len(owners) != len(given) or all(each.widget for each in held):
        return given
    return [value for each, value in zip(owners, given) if each.widget]


def _has_control(each: Input) -> bool:
    return bool(each.options.get("control_after_generate")) or each.name in SEEDS


def _repaired(kind: str, widget: Widget) -> Widget:
    """A sampler's name of old files without its prefix."""
    old = kind in ("KSampler", "KSamplerAdvanced") and widget.name == "sampler_name"
    if old and isinstance(widget.value, str) and widget.value.startswith("sample_"):
        return Widget(widget.name, widget.value.removeprefix("sample_"), widget.input)
    return widget


def sent_value(value: Any) -> Any:
    """A widget's value as a prompt has it: a list is wrapped, since a bare one would be read as a link."""
    return {"__value__": value} if isinstance(value, list) else value
