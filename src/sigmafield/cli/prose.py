"""Docstrings as people read them in a terminal."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path


def description(docstring: str | None) -> str:
    """What a docstring says before its lists of arguments and errors, without the line ends of its paragraphs.

    Indented lines, such as equations, stay as they are.
    """
    text = re.split(r"\n(?:Args|Returns|Raises):\n", inspect.cleandoc(docstring or ""))[0]
    paragraphs = re.split(r"\n{2,}", text.strip("\n"))
    return "\n\n".join(p if p.startswith(" ") else " ".join(p.split()) for p in paragraphs)


def description_in(file: Path, name: str) -> str:
    """The description of a command in a file, which is not imported: that would take longer than reading it.

    It is the docstring of the function of that name; of a group of commands, which is a variable, that of the file.
    """
    tree = ast.parse(file.read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return description(ast.get_docstring(node))
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            text = description(ast.get_docstring(tree)).partition(": ")[2]
            return text[:1].upper() + text[1:]
    raise ValueError(f"{file} has no command {name}")
