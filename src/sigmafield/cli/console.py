"""What is printed for people: text as it is, never as markup, and tables that a narrow terminal can show."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

NARROW = 72
"""Columns of a terminal below which a table becomes a list of its rows."""


def console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """Where text is printed: brackets and colons in prompts, names and messages are not markup or emoji."""
    return Console(stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)


HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of characters that are not shown, or that change how others are: newlines, terminal escapes, …."""


def escaped(text: str) -> str:
    """Text of a file in one line, whose control characters are written as in Python."""
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in HIDDEN else c for c in text)


def as_json(value: object) -> str:
    """JSON in one line, with control characters in texts as \\u escapes."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(json.dumps(c)[1:-1] if unicodedata.category(c) in HIDDEN else c for c in text)


def show_table(head: Sequence[str], rows: Sequence[Sequence[str | Text]], note: str = "") -> None:
    """Print a table, and a note about where to read on; where the terminal is narrow, row below row.

    Args:
        head: Names of the columns.
        rows: The cells of each row; the first one names the row.
        note: A text below the table.
    """
    out = console()
    if out.width < NARROW:
        for name, *cells in rows:
            out.print(Text.assemble((str(name), "bold")))
            for title, cell in zip(head[1:], cells):
                if str(cell):
                    out.print(Padding(Text.assemble((f"{title}: ", "dim"), cell), (0, 0, 0, 2)))
    else:
        others = (Column(title, overflow="fold") for title in head[1:])  # nothing is cut off
        table = Table(Column(head[0], no_wrap=True), *others, box=None, header_style="bold")
        for row in rows:
            table.add_row(*row)
        out.print(table)
    if note:
        out.print(f"\n{note}")
