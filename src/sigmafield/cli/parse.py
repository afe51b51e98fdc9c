"""Texts of the command line that are not one plain value: sizes, regions, controls, LoRAs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sigmafield.core.parameters import fields_of
from sigmafield.core.registry import near_miss
from sigmafield.recipes.options import ControlImage, Lora, Region


def parse_size(text: str | None) -> dict[str, Any]:
    """{"width": …, "height": …} from "WxH"; {} from None."""
    if text is None:
        return {}
    width, x, height = text.lower().partition("x")
    if not (x and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"size must be WIDTHxHEIGHT in pixels, such as 512x768; got {text!r}")
    return {"width": int(width), "height": int(height)}


def parse_shift(text: str) -> float | Literal["size"]:
    """A time shift: a number, or "size"."""
    if text == "size":
        return "size"
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"shift must be a number above 0 or 'size'; got {text!r}") from None


def parse_region(text: str) -> Region:
    """A region from "x,y,width,height:prompt" or "x,y,width,height:prompt:strength"."""
    box, colon, rest = text.partition(":")
    prompt, _, strength = rest.rpartition(":")
    try:
        weight = float(strength) if prompt else 1.0
    except ValueError:  # the colon belongs to the prompt
        prompt, weight = "", 1.0
    try:
        x, y, width, height = (int(number) for number in box.split(","))
    except ValueError:
        colon = ""
    if not colon or not rest:
        raise ValueError(f"a region must be X,Y,W,H:PROMPT or X,Y,W,H:PROMPT:STRENGTH; got {text!r}")
    return Region(prompt or rest, x, y, width, height, weight)


def parse_control(text: str) -> ControlImage:
    """A control from "net=DIR,image=PNG,strength=0.8,start=0,end=0.5"; paths may have commas and colons."""
    names = [name for name in fields_of(ControlImage) if name != "image_sha256"]
    pairs = [pair.partition("=") for pair in re.split(r",(?=\w+=)", text)]
    values: dict[str, Any] = {name: value for name, _, value in pairs}
    for name in values:
        if name not in names:
            raise ValueError(f"a control has no entry {name!r}{near_miss(name, names)}")
    if not all(values.get(name) for name in ("net", "image")):
        raise ValueError(
            f"a control must be net=DIR,image=PNG and, if wanted, strength=0.8,start=0,end=1; got {text!r}"
        )
    for name in values.keys() & {"strength", "start", "end"}:
        try:
            values[name] = float(values[name])
        except ValueError:
            raise ValueError(f"a control's {name} must be a number; got {values[name]!r}") from None
    return ControlImage(**values)


def parse_lora(text: str) -> Lora:
    """A LoRA from "file", "file:strength" or "file:strength:text_strength"."""
    path, strengths = text, list[float]()
    while len(strengths) < 2:
        head, _, tail = path.rpartition(":")
        try:
            strength = float(tail)
        except ValueError:  # the colon belongs to the path
            break
        if not head:
            break
        path, strengths = head, [strength, *strengths]
    return Lora(path, strengths[0] if strengths else 1.0, text_strength=strengths[1] if len(strengths) == 2 else None)


@dataclass(frozen=True)
class Readers:
    """How the texts of some fields are read.

    Args:
        one: Fields that have one text.
        several: Fields whose flag may be repeated; each text is one entry.
        shapes: How the help shows what a text of a field looks like.
    """

    one: Mapping[str, Callable[[str], Any]]
    several: Mapping[str, Callable[[str], Any]]
    shapes: Mapping[str, str]

    def read(self, name: str, value: Any) -> Any:
        """The value of a field from what was given for its flag."""
        if name in self.several:
            return tuple(map(self.several[name], value))
        return self.one[name](value) if name in self.one else value


READERS = Readers(
    {"shift": parse_shift},
    {
        "regions": parse_region, "controls": parse_control, "loras": parse_lora,
        "lora_files": str, "control_images": str, "control_nets": str,
    },
    {
        "shift": "S|size", "pad": "L,T,R,B", "regions": "X,Y,W,H:PROMPT[:STRENGTH]",
        "loras": "FILE[:STRENGTH[:TEXT]]",
        "controls": "net=DIR,image=PNG[,strength=1][,start=0][,end=1][,kind=canny]",
    },
)  # fmt: skip
