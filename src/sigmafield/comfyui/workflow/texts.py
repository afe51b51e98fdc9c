"""Texts of widgets as a prompt has them: dynamic prompts resolved, patterns of file names filled in."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from random import Random

COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
ESCAPED = re.compile(r"\\([{}|])")
PATTERN = re.compile(r"%([^%]+)%")
FORBIDDEN = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
TOKENS = re.compile(r"yyyy|yy|MM?|dd?|hh?|mm?|ss?")

PREFIXED = (
    "SaveImage", "SaveVideo", "SaveAnimatedWEBP", "SaveWEBM", "SaveAudio", "SaveGLB", "SaveAnimatedPNG", "CLIPSave",
    "VAESave", "ModelSave", "LoraSave", "SaveLatent",
)  # fmt: skip
"""Classes whose filename_prefix may have patterns."""


def dynamic_text(text: str, random: Random) -> str:
    """A prompt without comments, with one option of each group {a|b} chosen, and with \\{ \\} \\| as characters.

    Comments are /* … */ and // up to the end of the line, which cuts off URLs as well.

    Args:
        text: The prompt.
        random: What chooses, all options alike; groups may be in options.
    """
    text = COMMENT.sub("", text)
    found, rest = _options(text, 0, random, inside=False)
    while rest < len(text):  # a closing brace without an opening one is a character
        more, end = _options(text, rest + 1, random, inside=False)
        found, rest = found + text[rest] + more, end
    return ESCAPED.sub(r"\1", found)


def _options(text: str, start: int, random: Random, inside: bool) -> tuple[str, int]:
    """The chosen option of a group, or the text itself, and where it ends: at the brace that closes it, or the end."""
    options, k = [""], start
    while k < len(text):
        letter = text[k]
        if letter == "\\" and text[k + 1 : k + 2] in ("{", "}", "|"):
            options[-1] += text[k : k + 2]
            k += 2
            continue
        if letter == "{":
            chosen, k = _options(text, k + 1, random, inside=True)
            options[-1] += chosen
        elif letter == "}":
            break
        elif letter == "|" and inside:
            options.append("")
        else:
            options[-1] += letter
        k += 1
    return random.choice(options), k


def literal_text(text: str) -> str:
    """The dynamic prompt that gives exactly this text: braces are escaped, and // and /* do not start comments."""
    escaped = re.sub(r"[{}]|(?<=\\)\|", r"\\\g<0>", text)
    return re.sub(r"/([/*])", r"/{\1}", escaped)


def filled_prefix(text: str, look_up: Callable[[str, str], object | None], now: datetime) -> str:
    """A file name with %date:FORMAT% and %Title.widget% filled in; other patterns stay, for whoever saves the file.

    Args:
        text: The name.
        look_up: The value of a widget by its node's title and its name; None if it does not exist.
        now: The time.
    """

    def fill(match: re.Match[str]) -> str:
        kind, _, pattern = match[1].partition(":")
        if kind == "date" and pattern:
            return date_text(pattern, now)
        title, dot, name = match[1].partition(".")
        value = look_up(title, name) if dot else None
        return match[0] if value is None else FORBIDDEN.sub("_", _plain(value))

    return PATTERN.sub(fill, text)


def _plain(value: object) -> str:
    """A value as JavaScript shows it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def date_text(pattern: str, now: datetime) -> str:
    """A time by a pattern of yyyy, yy, M, d, h, m and s; a doubled letter has a leading zero."""
    numbers = {"y": now.year, "M": now.month, "d": now.day, "h": now.hour, "m": now.minute, "s": now.second}

    def token(match: re.Match[str]) -> str:
        number = str(numbers[match[0][0]])
        return number[-len(match[0]) :] if match[0][0] == "y" else number.zfill(len(match[0]))

    return TOKENS.sub(token, pattern)
