"""The line that names with parameters are written in, as Python would have them: rescale(multiplier=0.7)+cfg_norm."""

from __future__ import annotations

import ast
from typing import Any

Term = tuple[str, dict[str, Any]]
"""A name and its parameters."""


def terms(text: str, kind: str, example: str) -> list[Term]:
    """Names with parameters, joined by +, in order; "": none. Words need no quotes, true and false no capital.

    Raises ValueError for another line, saying of what kind it is and giving the example.
    """
    if not text.strip():
        return []
    try:
        return _split(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{kind} must be names with parameters, such as {example}; got {text!r}") from error


def _split(tree: ast.expr) -> list[Term]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        return [*_split(tree.left), *_split(tree.right)]
    if isinstance(tree, ast.Name):
        return [(tree.id, {})]
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
        return [(tree.func.id, {keyword.arg or "**": _value(keyword.value) for keyword in tree.keywords})]
    raise ValueError(ast.dump(tree))


def _value(tree: ast.expr) -> Any:
    """A number, true or false, or a word with or without quotes."""
    if isinstance(tree, ast.Name):
        return {"true": True, "false": False}.get(tree.id, tree.id)
    return ast.literal_eval(tree)
