"""Numbers, texts and switches."""

from __future__ import annotations

import json
from typing import Annotated, Any

from sigmafield.comfyui.context import Shown
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sockets import Input, Match, Seed
from sigmafield.comfyui.values import AnyValue
from sigmafield.core.annotations import Range

LARGEST = 2**63 - 1

Text = Annotated[str, Input(multiline=True)]
Switched = Annotated[Any, Match("switch"), Input(lazy=True)]


@node("PrimitiveInt", "utils/primitive", title="Int", version=3)
def primitive_int(value: Annotated[Seed, Range(-LARGEST, LARGEST)]) -> int:
    """A whole number.

    Args:
        value: The number.
    """
    return value


@node("StringConcatenate", "utils/string", title="Concatenate", version=3)
def string_concatenate(string_a: Text, string_b: Text, delimiter: str = "") -> str:
    """Joins two texts.

    Args:
        string_a: The first text.
        string_b: The second text.
        delimiter: What is put between them.
    """
    return delimiter.join((string_a, string_b))


def _chosen(switch: bool, on_false: Any, on_true: Any) -> list[str]:
    name, value = ("on_true", on_true) if switch else ("on_false", on_false)
    return [name] if value is None else []


@node(
    "ComfySwitchNode", "logic", title="Switch", outputs=("output",), version=3, experimental=True, needs=_chosen
)  # fmt: skip
def switch(switch: bool, on_false: Switched, on_true: Switched) -> Annotated[Any, Match("switch")]:
    """One of two values; only the chosen one is computed.

    Args:
        switch: Which one.
        on_false: The value if it is off.
        on_true: The value if it is on.
    """
    return on_true if switch else on_false


@node("PreviewAny", "utils", title="Preview as Text", shows=True)
def preview_any(source: AnyValue) -> Shown[None]:
    """Shows a value as text: as JSON where it has a JSON form.

    Args:
        source: The value.
    """
    if isinstance(source, (str, int, float, bool)):
        return Shown(None, {"text": (str(source),)})
    try:
        text = json.dumps(source, indent=4)
    except (TypeError, ValueError):
        text = str(source)
    return Shown(None, {"text": (text,)})
