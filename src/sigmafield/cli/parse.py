"""Texts of the command line that are not one plain value: sizes, regions, controls, LoRAs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sigmafield.core.parameters import fields_of
from sigmafield.core.registry import near_miss, shown
from sigmafield.recipes.options import AdapterImage, ControlImage, Lora, Reference, Region


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


def parse_seed(text: str) -> int | Literal["random"]:
    """A seed: a whole number, or "random"."""
    if text == "random":
        return "random"
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"seed must be a whole number or 'random'; got {shown(text)}") from None


REGION = re.compile(
    r'(?P<box>\s*-?\d+\s*(?:,\s*-?\d+\s*){3}):(?:"(?P<quoted>[^"]*)"|(?P<plain>.+?))(?::strength=(?P<strength>.*))?',
    re.DOTALL,
)
STRENGTH = re.compile(r"(?P<prompt>.*[^\d\s]\s*):(?P<strength>\s*[-+]?(?:\d+\.?\d*|\.\d+))", re.DOTALL)
"""The form "PROMPT:STRENGTH" of earlier versions; "12:30" is not of it."""


def parse_region(text: str) -> Region:
    """A region from "x,y,width,height:prompt" or "x,y,width,height:prompt:strength=2"; the prompt may be in quotes.

    Raises:
        ValueError: The text is not of this form, or ends in what earlier versions took for a strength.
    """
    found = REGION.fullmatch(text)
    if found is None or not (found["quoted"] or found["plain"]):
        raise ValueError(f"a region must be X,Y,W,H:PROMPT or X,Y,W,H:PROMPT:strength=S; got {shown(text)}")
    prompt, strength = found["quoted"] or found["plain"], found["strength"]
    if found["plain"] and strength is None and (old := STRENGTH.fullmatch(prompt)):
        box, value = found["box"], old["strength"].strip()
        raise ValueError(
            f"a region's strength is written {box}:{old['prompt']}:strength={value}; if ':{value}' belongs to the "
            f'prompt, quote it: {box}:"{prompt}"'
        )
    weight = 1.0 if strength is None else parse_number("a region's strength", strength)
    return Region(prompt, *map(int, found["box"].split(",")), strength=weight)


def parse_number(what: str, text: str) -> float:
    """A number in a text; ValueError that names what it is."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{what} must be a number; got {shown(text)}") from None


def parse_control(text: str) -> ControlImage:
    """A control from "net=PATH,image=PNG,strength=0.8,start=0,end=0.5"; paths may have commas and colons."""
    form = "net=PATH,image=PNG and, if wanted, strength=0.8,start=0,end=1"
    return ControlImage(**parse_entries("a control", ControlImage, text, ("net", "image"), form))


def parse_adapter(text: str) -> AdapterImage:
    """An IP-Adapter from "net=FILE,encoder=FILE,image=PNG,strength=0.8,start=0,end=0.5,layers=NAME+NAME"."""
    form = "net=FILE,encoder=FILE,image=PNG and, if wanted, strength=0.8,start=0,end=1,layers=NAME+NAME"
    values = parse_entries("an IP-Adapter", AdapterImage, text, ("net", "encoder", "image"), form)
    if "layers" in values:
        values["layers"] = tuple(values["layers"].split("+"))
    return AdapterImage(**values)


def parse_entries(what: str, kind: type, text: str, needed: Sequence[str], form: str) -> dict[str, Any]:
    """Reads the fields of a class from "name=value,name=value".

    Args:
        what: What it is, for errors, such as "a control".
        kind: The class.
        text: The text.
        needed: Fields that must be there.
        form: The form, for errors.

    Raises:
        ValueError: The text has another form, or a field is unknown, missing or there twice.
    """
    names = [name for name in fields_of(kind) if name != "image_sha256"]
    pairs = [pair.partition("=") for pair in re.split(r",(?=\w+=)", text)]
    values: dict[str, Any] = {name: value for name, _, value in pairs}
    for name in values:
        if name not in names:
            raise ValueError(f"{what} has no entry {name!r}{near_miss(name, names)}")
    if len(values) < len(pairs):
        raise ValueError(f"{what} must have each entry once; got {shown(text)}")
    if not all(values.get(name) for name in needed):
        raise ValueError(f"{what} must be {form}; got {text!r}")
    for name in values.keys() & {"strength", "start", "end"}:
        values[name] = parse_number(f"{what}'s {name}", values[name])
    return values


def parse_lora(text: str) -> Lora:
    """A LoRA from "file", "file:strength" or "file:strength:text_strength".

    Where a file has the whole name, colons and all, it is meant.
    """
    path, strengths = text, list[float]()
    while len(strengths) < 2 and not Path(path).expanduser().is_file():
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
    {
        "shift": parse_shift, "seed": parse_seed, "model_folder": Path, "input_folder": Path, "base_directory": Path,
        "input_directory": Path, "output_directory": Path, "temp_directory": Path, "user_directory": Path,
        "front_end_root": Path, "tls_keyfile": Path, "tls_certfile": Path,
    },
    {
        "regions": parse_region, "controls": parse_control, "loras": parse_lora, "references": Reference,
        "ip_adapters": parse_adapter,
        "lora_files": str, "control_images": str, "control_nets": str, "reference_images": str,
        "ip_adapter_images": str, "ip_adapter_nets": str, "ip_adapter_encoders": str,
        "models": str, "devices": str, "allow_host": str, "allow_origin": str,
        "extra_model_paths_config": Path,
    },
    {
        "shift": "S|size", "seed": "N|random", "pad": "L,T,R,B", "regions": "X,Y,W,H:PROMPT[:strength=S]",
        "loras": "FILE[:STRENGTH[:TEXT]]", "references": "IMAGE", "model_folder": "FOLDER", "input_folder": "FOLDER",
        "models": "NAME", "devices": "NAME", "allow_host": "NAME", "allow_origin": "URL",
        "base_directory": "FOLDER", "input_directory": "FOLDER", "output_directory": "FOLDER",
        "temp_directory": "FOLDER", "user_directory": "FOLDER", "front_end_root": "FOLDER",
        "extra_model_paths_config": "FILE", "tls_keyfile": "FILE", "tls_certfile": "FILE",
        "controls": "net=PATH,image=PNG[,strength=1][,start=0][,end=1][,kind=canny]",
        "ip_adapters": "net=FILE,encoder=FILE,image=PNG[,strength=1][,start=0][,end=1][,layers=NAME+NAME]",
    },
)  # fmt: skip
