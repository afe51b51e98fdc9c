"""Numbers, switches and lists."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from sigmafield.comfyui.context import Shown
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.sockets import Autogrow, Choices, Input, Match, Seed, Socket
from sigmafield.comfyui.values import AnyValue
from sigmafield.core.annotations import Range
from sigmafield.core.registry import shown

LARGEST = 2**63 - 1
WHOLE = re.compile(r"[+-]?\d+")

Text = Annotated[str, Input(multiline=True)]
Switched = Annotated[Any, Match("switch"), Input(lazy=True)]


@node("PrimitiveInt", "utils/primitive", title="Int", version=3)
def primitive_int(value: Annotated[Seed, Range(-LARGEST, LARGEST)]) -> int:
    """A whole number.

    Args:
        value: The number.
    """
    return value


@node("PrimitiveFloat", "utils/primitive", title="Float", version=3)
def primitive_float(
    value: Annotated[float, Range(-LARGEST, LARGEST), Input(step=0.1, more=(("min", -LARGEST), ("max", LARGEST)))],
) -> float:
    """A number.

    Args:
        value: The number.
    """
    return value


@node("PrimitiveBoolean", "utils/primitive", title="Boolean", version=3)
def primitive_boolean(value: bool) -> bool:
    """True or false.

    Args:
        value: Which.
    """
    return value


@node("PrimitiveString", "utils/primitive", title="String", version=3)
def primitive_string(value: str) -> str:
    """A text of one line.

    Args:
        value: The text.
    """
    return value


@node("PrimitiveStringMultiline", "utils/primitive", title="String (Multiline)", version=3)
def primitive_string_multiline(value: Text) -> str:
    """A text of several lines.

    Args:
        value: The text.
    """
    return value


@node("SeedNode", "utils/primitive", title="Seed", outputs=("seed",), version=3)
def seed_node(seed: Annotated[int, Range(0, LARGEST), Input(control_after_generate="fixed")] = 0) -> int:
    """A seed for several nodes.

    Args:
        seed: The seed.
    """
    return seed


@node("ComfyNumberConvert", "utils", title="Number Convert", outputs=("FLOAT", "INT"), version=3)
def number_convert(value: Annotated[Any, Socket("INT,FLOAT,STRING,BOOLEAN")]) -> tuple[float, int]:
    """Makes a number of a text, of another number, or of true and false.

    Args:
        value: The value; whole numbers are cut off, not rounded.
    """
    exact = isinstance(value, int) or (isinstance(value, str) and WHOLE.fullmatch(value.strip()))
    try:
        number = float(value)
        return number, int(value) if exact else int(number)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"ComfyNumberConvert needs a finite number; got {shown(value)}") from None


RATIOS: Mapping[str, tuple[int, int]] = {
    "1:1 (Square)": (1, 1),
    "2:3 (Portrait Photo)": (2, 3),
    "3:2 (Photo)": (3, 2),
    "3:4 (Portrait Standard)": (3, 4),
    "4:3 (Standard)": (4, 3),
    "9:16 (Portrait Widescreen)": (9, 16),
    "16:9 (Widescreen)": (16, 9),
    "21:9 (Ultrawide)": (21, 9),
}


@node("ResolutionSelector", "utils", title="Resolution Selector", outputs=("width", "height"), version=3)
def resolution_selector(
    aspect_ratio: Literal[
        "1:1 (Square)", "2:3 (Portrait Photo)", "3:2 (Photo)", "3:4 (Portrait Standard)", "4:3 (Standard)",
        "9:16 (Portrait Widescreen)", "16:9 (Widescreen)", "21:9 (Ultrawide)",
    ] = "1:1 (Square)",
    megapixels: Annotated[float, Range(0.1, 16), Input(step=0.1)] = 1.0,
    multiple: Annotated[int, Range(8, 128), Input(step=4, optional=True)] = 8,
) -> tuple[int, int]:  # fmt: skip
    """Width and height of a ratio and a number of pixels.

    Args:
        aspect_ratio: The ratio of the sides.
        megapixels: The number of pixels, in units of 1024².
        multiple: What the sides are multiples of.
    """
    w, h = RATIOS[aspect_ratio]
    s = (megapixels * 2**20 / (w * h)) ** 0.5
    return round(w * s / multiple) * multiple, round(h * s / multiple) * multiple


def _chosen(switch: bool, on_false: Any = ..., on_true: Any = ...) -> list[str]:
    """The side that is needed and not there yet; one that is not linked is left out."""
    name, value = ("on_true", on_true) if switch else ("on_false", on_false)
    return [name] if value is None else []


@node(
    "ComfySwitchNode", "logic", title="Switch", outputs=("output",), version=3, experimental=True, needs=_chosen
)  # fmt: skip
def switch(switch: bool, on_false: Switched = None, on_true: Switched = None) -> Annotated[Any, Match("switch")]:
    """One of two values; only the chosen one is computed.

    Args:
        switch: Which one.
        on_false: The value if it is off.
        on_true: The value if it is on.
    """
    return on_true if switch else on_false


@node(
    "CustomCombo", "utils", title="Custom Combo", outputs=("STRING", "INDEX"), version=3, experimental=True,
    validate=lambda choice: True,
)  # fmt: skip
def custom_combo(
    choice: Annotated[str, Choices(lambda folders: ())],
    index: Annotated[int, Input(optional=True)] = 0,
    **options: AnyValue,
) -> tuple[str, int]:
    """One of several texts, which the interface keeps with the node.

    Args:
        choice: The text.
        index: Its number.
        options: The texts: option1, option2, ….
    """
    return choice, index


@node("PreviewAny", "utils", title="Preview as Text", shows=True)
def preview_any(source: AnyValue) -> Shown[str]:
    """Shows a value as text: as JSON where it has a JSON form.

    Args:
        source: The value.
    """
    if isinstance(source, (str, int, float, bool)):
        text = str(source)
    else:
        try:
            text = json.dumps(source, indent=4)
        except (TypeError, ValueError):
            text = str(source)
    return Shown(text, {"text": (text,)})


@node("CreateList", "utils", title="Create List", outputs=("list",), version=3, takes_lists=True)
def create_list(
    inputs: Annotated[Mapping[str, Sequence[Any]], Autogrow(AnyValue, "input", "input", min=1, max=50)],
) -> Annotated[list[Any], Socket("*", listed=True)]:
    """Joins values and lists into a list, each item of which goes to the next node on its own.

    Args:
        inputs: The values and lists.
    """
    return [item for each in inputs.values() for item in each]


@node("GetItemFromList", "utils", title="Get Item From List", version=3, takes_lists=True)
def get_item_from_list(list: Sequence[AnyValue], index: Sequence[int] = (0,)) -> AnyValue:
    """An item of a list.

    Args:
        list: The list.
        index: Number of the item, from 0; negative numbers count from the end.
    """
    if not -len(list) <= index[0] < len(list):
        raise ValueError(f"GetItemFromList needs an index into a list of {len(list)} items; got {index[0]}")
    return list[index[0]]
