"""Nodes that compute with texts."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from sigmafield.comfyui.context import Context, Shown
from sigmafield.comfyui.declare import node
from sigmafield.comfyui.nodes.values import Text
from sigmafield.comfyui.saving import place, stays_below
from sigmafield.comfyui.sockets import Autogrow, Input, Socket
from sigmafield.core.annotations import Range
from sigmafield.core.registry import shown

LETTERS = tuple(string.ascii_lowercase)


@node("StringConcatenate", "utils/string", title="Concatenate", version=3)
def string_concatenate(string_a: Text, string_b: Text, delimiter: str = "") -> str:
    """Joins two texts.

    Args:
        string_a: The first text.
        string_b: The second text.
        delimiter: What is put between them.
    """
    return delimiter.join((string_a, string_b))


@node("StringSubstring", "utils/string", title="Substring", version=3)
def string_substring(string: Text, start: int, end: int) -> str:
    """A part of a text.

    Args:
        string: The text.
        start: Number of the first character, from 0; negative numbers count from the end.
        end: Number of the character after the last one.
    """
    return string[start:end]


@node("StringLength", "utils/string", title="Length", outputs=("length",), version=3)
def string_length(string: Text) -> int:
    """The number of characters of a text.

    Args:
        string: The text.
    """
    return len(string)


@node("CaseConverter", "utils/string", title="Case Converter", version=3)
def case_converter(string: Text, mode: Literal["UPPERCASE", "lowercase", "Capitalize", "Title Case"]) -> str:
    """A text in capital or small letters.

    Args:
        string: The text.
        mode: Which letters are capital.
    """
    change = {"UPPERCASE": str.upper, "lowercase": str.lower, "Capitalize": str.capitalize, "Title Case": str.title}
    return change[mode](string)


@node("StringTrim", "utils/string", title="Trim", version=3)
def string_trim(string: Text, mode: Literal["Both", "Left", "Right"]) -> str:
    """A text without blanks and line ends at its ends.

    Args:
        string: The text.
        mode: At which end.
    """
    return {"Both": str.strip, "Left": str.lstrip, "Right": str.rstrip}[mode](string)


@node("StringReplace", "utils/string", title="Replace", version=3)
def string_replace(string: Text, find: Text, replace: Text) -> str:
    """Replaces a part of a text wherever it is.

    Args:
        string: The text.
        find: What is replaced.
        replace: What takes its place.
    """
    return string.replace(find, replace)


@node("StringContains", "utils/string", title="Contains", outputs=("contains",), version=3)
def string_contains(string: Text, substring: Text, case_sensitive: bool = True) -> bool:
    """Whether a text has another in it.

    Args:
        string: The text.
        substring: The other text.
        case_sensitive: Whether capital and small letters differ.
    """
    return substring in string if case_sensitive else substring.lower() in string.lower()


@node("StringCompare", "utils/string", title="Compare", version=3)
def string_compare(
    string_a: Text, string_b: Text, mode: Literal["Starts With", "Ends With", "Equal"], case_sensitive: bool = True
) -> bool:
    """Compares texts.

    Args:
        string_a: The first text.
        string_b: The second text.
        mode: Whether the first starts with the second, ends with it, or is equal to it.
        case_sensitive: Whether capital and small letters differ.
    """
    a, b = (string_a, string_b) if case_sensitive else (string_a.lower(), string_b.lower())
    return {"Starts With": a.startswith(b), "Ends With": a.endswith(b), "Equal": a == b}[mode]


def _pattern(pattern: str, case_insensitive: bool, multiline: bool, dotall: bool) -> re.Pattern[str]:
    flags = case_insensitive * re.IGNORECASE | multiline * re.MULTILINE | dotall * re.DOTALL
    try:
        return re.compile(pattern, flags)
    except re.error as error:
        raise ValueError(f"regex_pattern {shown(pattern)} is not a regular expression: {error}") from None


@node("RegexMatch", "utils/string", title="Regex Match", outputs=("matches",), version=3)
def regex_match(
    string: Text, regex_pattern: Text, case_insensitive: bool = True, multiline: bool = False, dotall: bool = False
) -> bool:
    """Whether a regular expression is found in a text.

    Args:
        string: The text.
        regex_pattern: The regular expression, in Python's notation.
        case_insensitive: Whether capital and small letters are the same.
        multiline: Whether ^ and $ are the ends of lines.
        dotall: Whether . is a line end as well.
    """
    return _pattern(regex_pattern, case_insensitive, multiline, dotall).search(string) is not None


@node("RegexExtract", "utils/string", title="Regex Extract", version=3)
def regex_extract(
    string: Text,
    regex_pattern: Text,
    mode: Literal["First Match", "All Matches", "First Group", "All Groups"],
    case_insensitive: bool = True,
    multiline: bool = False,
    dotall: bool = False,
    group_index: Annotated[int, Range(0, 100)] = 1,
) -> str:
    """What of a text a regular expression finds, line by line; an empty text if it is not found.

    Args:
        string: The text.
        regex_pattern: The regular expression, in Python's notation.
        mode: Whether the first or all of what is found is wanted, as a whole or one of its groups.
        case_insensitive: Whether capital and small letters are the same.
        multiline: Whether ^ and $ are the ends of lines.
        dotall: Whether . is a line end as well.
        group_index: Number of the group, from 1.
    """
    pattern = _pattern(regex_pattern, case_insensitive, multiline, dotall)
    group = group_index if mode.endswith("Group") or mode.endswith("Groups") else 0
    if group > pattern.groups:
        return ""
    found = [each[group] or "" for each in pattern.finditer(string)]
    return "\n".join(found[:1] if mode.startswith("First") else found)


@node("RegexReplace", "utils/string", title="Regex Replace", version=3)
def regex_replace(
    string: Text,
    regex_pattern: Text,
    replace: Text,
    case_insensitive: Annotated[bool, Input(optional=True)] = True,
    multiline: Annotated[bool, Input(optional=True)] = False,
    dotall: Annotated[bool, Input(optional=True)] = False,
    count: Annotated[int, Range(0, 100), Input(optional=True)] = 0,
) -> str:
    """Replaces what a regular expression finds in a text.

    Args:
        string: The text.
        regex_pattern: The regular expression, in Python's notation.
        replace: What takes its place; \\\\1 is the first group.
        case_insensitive: Whether capital and small letters are the same.
        multiline: Whether ^ and $ are the ends of lines.
        dotall: Whether . is a line end as well.
        count: How often at most; 0 is always.
    """
    return _pattern(regex_pattern, case_insensitive, multiline, dotall).sub(replace, string, count=count)


@node("StringFormat", "utils/string", title="Format Text", version=3)
def string_format(
    f_string: Text = "{a}",
    *,
    values: Annotated[Mapping[str, Any], Autogrow(Annotated[Any, Socket("*")], "value", min=1, names=LETTERS)],
) -> str:
    """Puts values into a text: {a} is the first one, {b:.2f} the second one with two decimals.

    Args:
        f_string: The text.
        values: The values a, b, ….
    """
    try:
        return "".join(_filled(part, values) for part in string.Formatter().parse(f_string))
    except (KeyError, ValueError, TypeError) as error:
        known = ", ".join(values)
        raise ValueError(f"f_string {shown(f_string)} cannot be filled with the values {known}: {error}") from None


def _filled(part: tuple[str, str | None, str | None, str | None], values: Mapping[str, Any]) -> str:
    """A part of a format string: text, then the value of a name; attributes and items of values are not read."""
    before, name, how, conversion = part
    if name is None:
        return before
    value = values[name]
    return before + format({"r": repr, "s": str, "a": ascii}[conversion](value) if conversion else value, how or "")


@node("JsonExtractString", "utils/string", title="Extract String from JSON", version=3)
def json_extract_string(json_string: Text, key: str) -> str:
    """A value of the first JSON object in a text; an empty text where it is not there.

    Args:
        json_string: The text.
        key: The value's key.
    """
    for brace in re.finditer(r"\{", json_string):
        try:
            found, _ = json.JSONDecoder().raw_decode(json_string, brace.start())
        except ValueError:
            continue
        value = found.get(key)
        return "" if value is None else str(value)
    return ""


@node("SaveText", "utils", title="Save Text", outputs=("text",), version=3, shows=True, validate=stays_below)
def save_text(
    text: Annotated[str, Input(force_input=True)],
    filename_prefix: str = "ComfyUI",
    *,
    format: Literal["txt", "csv", "md", "json"],
    context: Context = Context(),
) -> Shown[str]:
    """Saves a text into the output folder.

    Args:
        text: The text.
        filename_prefix: Path of the file below the folder, up to the counter.
        format: Ending of the file; JSON is written with indents.
        context: Where the folder is.
    """
    where = place(filename_prefix, context.folders.output)
    file = where.save(0, f".{format}", _as_json(text).encode() if format == "json" else text.encode())
    return Shown(text, {"text": [text], "files": [file]})


def _as_json(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text
