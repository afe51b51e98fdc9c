"""A file of prompts: lines of text, or JSON objects with the fields of a recipe."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigmafield.cli.parse import parse_size
from sigmafield.recipes.recipe import Recipe, with_entries

STDIN = Path("-")
"""The file of prompts that is standard input."""

DRAWN = (-1, "random")
"""Seeds that a recipe replaces with one that it draws."""


@dataclass(frozen=True)
class Line:
    """A line of a file of prompts.

    Args:
        number: From 1.
        text: The line.
        recipe: What it asks for; None for a bad line.
        error: What is wrong with a bad line; "" for a good one.
        drawn: Whether its seed has been drawn, so that the one of an earlier command may take its place.
    """

    number: int
    text: str
    recipe: Recipe | None
    error: str = ""
    drawn: bool = False


def read_lines(path: Path, base: Recipe, drawn: bool = False) -> list[Line]:
    """The lines of a file of prompts, without blank lines and those that begin with #.

    A line is a prompt, or a JSON object with a prompt and any fields of a recipe: {"prompt": "a red heart", "seed": 7,
    "size": "96x64"}. In a file whose name ends in .jsonl every line is an object; elsewhere a line that begins as one.

    Args:
        path: The file; "-" is standard input.
        base: What the lines have in common; a line's own fields replace its.
        drawn: Whether the base's seed has been drawn.

    Raises:
        FileNotFoundError: The file does not exist.
        IsADirectoryError: It is a folder.
        ValueError: It is not text in UTF-8, or has no prompts.
    """
    name = "standard input" if path == STDIN else str(path)
    try:
        data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"no file of prompts at {path}") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"--prompts must be a file, or - for standard input; {path} is a folder") from None
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not text in UTF-8") from None
    objects = path.suffix.lower() == ".jsonl"
    texts = {number: line.strip() for number, line in enumerate(lines, 1)}
    found = [_line(k, text, base, drawn, objects) for k, text in texts.items() if text and not text.startswith("#")]
    if not found:
        raise ValueError(f"{name} has no prompts: it needs one per line; blank lines and # comments are skipped")
    return found


def _line(number: int, text: str, base: Recipe, drawn: bool, objects: bool) -> Line:
    try:
        if objects or re.match(r'\{\s*"', text):
            own = fields_of_line(text)
            recipe = Recipe.from_plain({**base.to_plain(), **own})
            return Line(number, text, recipe, drawn=own["seed"] in DRAWN if "seed" in own else drawn)
        return Line(number, text, with_entries(base, prompt=text), drawn=drawn)
    except ValueError as error:
        return Line(number, text, None, str(error))


def fields_of_line(text: str) -> dict[str, Any]:
    """The fields of a recipe in a JSON object that has a prompt, with its size as width and height.

    Raises:
        ValueError: The text is not such an object, or its size is not WIDTHxHEIGHT.
    """
    try:
        given = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(given, Mapping) or "prompt" not in given:
        raise ValueError(f'a line must be a JSON object with a prompt, such as {{"prompt": "a red heart"}}; got {text}')
    own: dict[str, Any] = dict(given)
    size = own.pop("size", None)
    if size is not None and not isinstance(size, str):
        raise ValueError(f'size must be text, such as "512x768"; got {size!r}')
    return {**own, **parse_size(size)}
