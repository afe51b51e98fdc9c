"""Recipes from images of other programs: what their metadata says, as far as a recipe can say it.

A1111 and what writes its format, ComfyUI, Fooocus, InvokeAI and NovelAI are read by sd-parsers, SwarmUI here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from sigmafield.recipes.image_io import decoded, read_bytes
from sigmafield.recipes.image_texts import parsed, texts_of
from sigmafield.recipes.recipe import Recipe

FIELDS = {
    "cfg_scale": "cfg", "cfgscale": "cfg", "guidance_scale": "cfg", "noise_seed": "seed", "scheduler": "schedule",
    "noise_schedule": "schedule", "clipstopatlayer": "clip_skip", "negativeprompt": "negative",
    "denoising_strength": "denoise", "strength": "denoise", "resolution": "size",
    **{name: name for name in ("sampler", "schedule", "steps", "cfg", "seed", "width", "height", "size", "clip_skip",
                               "denoise", "model", "prompt", "negative")},
}  # fmt: skip
"""Names of entries in other programs, in lower case with underscores, and of what they are in a recipe."""

WHOLE, NUMBERS = ("steps", "seed", "width", "height", "clip_skip"), ("cfg", "denoise")
"""Fields that are whole numbers, and those that are numbers."""

EMPTY = (None, "", False, [], {}, "None", "none")
"""Values that say nothing."""

SHOWN = 60
"""Characters of a value that a note shows."""


@dataclass
class Taken:
    """What is taken over of another program's entries, and notes about what is not."""

    fields: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def leave(self, name: str, value: object, why: str = "") -> None:
        """Note an entry that is not taken over, unless it says nothing."""
        if value not in EMPTY:
            text = str(value)
            text = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
            self.notes.append(f"not taken over: {name} = {text}" + (f" ({why})" if why else ""))


def read_recipe(path: str | Path) -> tuple[Recipe, list[str]]:
    """The recipe of an image that another program wrote, and what could not be taken over, one sentence each.

    It draws the same thing in the same way. The pixels differ: programs draw their noise in different ways.

    Args:
        path: The image.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not an image, or its metadata is of no program that is known.
        ImportError: sd-parsers is not installed.
    """
    image = decoded(read_bytes(path), str(path))
    return recipe_from(image, str(path))


def recipe_from(image: Image.Image, name: str) -> tuple[Recipe, list[str]]:
    """The same of an image that is open; `name` is its file's, for errors."""
    found = parsed(texts_of(image))
    if found is None:
        raise ValueError(
            f"{name} has no recipe that is known: neither sigmafield's, nor the metadata of A1111, ComfyUI, Fooocus, "
            "InvokeAI, NovelAI or SwarmUI"
        )
    program, entries, rest = found
    taken = Taken()
    values = _values(entries, taken)
    prompt = _prompt(str(values.pop("prompt", "")), taken)
    if "model" in values:
        taken.notes.append(f"the model is named {values['model']!r}: give its path or directory as `model`")
    size = {key: values.pop(key) for key in ("width", "height") if key in values}
    for group in (size, *({key: value} for key, value in values.items())):
        try:
            Recipe(prompt, **taken.fields, **group)
        except ValueError as error:
            taken.leave(", ".join(group), ", ".join(map(str, group.values())), str(error))
        else:
            taken.fields |= group
    for key, value in rest.items():
        taken.leave(key, value)
    taken.notes.append(f"read from {program}; its noise differs, and so will the pixels")
    return Recipe(prompt, **taken.fields), taken.notes


def _values(entries: Mapping[str, Any], taken: Taken) -> dict[str, Any]:
    """A recipe's fields from entries; what is not one of them is noted."""
    values: dict[str, Any] = {}
    for name, value in entries.items():
        key = FIELDS.get(name.lower().replace(" ", "_"))
        if key is None:
            taken.leave(name, value)
            continue
        try:
            values |= _converted(key, value)
        except (TypeError, ValueError):
            taken.leave(name, value, f"no {key} of a recipe")
    if values.get("denoise") == 1:
        del values["denoise"]
    if "denoise" in values:
        taken.leave("denoise", values.pop("denoise"), "it acts on an input image, which the file does not hold")
    return values


def _converted(key: str, value: Any) -> dict[str, Any]:
    """Fields of a recipe from one entry; TypeError or ValueError for a value of another kind."""
    if value in EMPTY and value is not False:
        return {}
    if key == "size":
        width, height = (int(side) for side in re.findall(r"\d+", str(value)))
        return {"width": width, "height": height}
    if key in WHOLE:
        number = int(value)
        return {key: -abs(number) if key == "clip_skip" else number}
    if key in NUMBERS:
        return {key: float(value)}
    text = str(value)
    return {key: text.removesuffix("_gpu") if key == "sampler" else text}


def _prompt(text: str, taken: Taken) -> str:
    """The prompt without the LoRAs that A1111 writes into it, which are noted."""
    for lora in re.findall(r"<(?:lora|lyco|hypernet):[^<>]*>", text):
        taken.leave("LoRA", lora, "give its file as a LoRA")
    return re.sub(r"\s*<(?:lora|lyco|hypernet):[^<>]*>", "", text).strip()
