"""Named things with parameters: the registries that list them, and their text form.

dpmpp_2m_sde(eta=0.5)                     a `Spec`: a name with parameters
apg(eta=0.5)+cfg_norm                     several, in the order in which they act
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

import numpy as np

LONGEST = 120
"""Characters of a value that an error message quotes."""


@runtime_checkable
class HasName(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=HasName)
V = TypeVar("V")


@dataclass(frozen=True)
class Spec:
    """A name with parameters: a sampler, a schedule, a guidance mod, a model sampling, a mixing curve.

    Args:
        name: A name of the registry that it is looked up in.
        params: Values by parameter name; other parameters keep their defaults.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __str__(self) -> str:
        """The text form, which `parse` reads back."""
        if not self.params:
            return self.name
        return f"{self.name}({', '.join(f'{key}={_written(value)}' for key, value in self.params.items())})"

    @classmethod
    def parse(cls, text: str, kind: str = "spec", example: str = "name(parameter=0.5)") -> Spec:
        """The spec in a text; ValueError unless the text is one name with or without parameters."""
        found = parse_specs(text, kind, example)
        if len(found) != 1:
            raise ValueError(f"{kind} must be one name, such as {example}; got {shown(text)}")
        return found[0]


def parse_specs(text: str, kind: str, example: str) -> tuple[Spec, ...]:
    """Names with parameters, joined by +, in order; none for "".

    Words need no quotes; true, false and inf are values.

    Args:
        text: The text, such as "apg(eta=0.5)+cfg_norm".
        kind: What the text describes, for the error.
        example: A text of this kind, for the error.

    Raises:
        ValueError: The text is not of this form.
    """
    if not text.strip():
        return ()
    try:
        return tuple(_split(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):  # all of them come from odd texts
        raise ValueError(f"{kind} must be names with parameters, such as {example}; got {shown(text)}") from None


def format_specs(specs: Iterable[Spec]) -> str:
    """The text that `parse_specs` reads back."""
    return "+".join(map(str, specs))


def _split(tree: ast.expr) -> list[Spec]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        return [*_split(tree.left), *_split(tree.right)]
    if isinstance(tree, ast.Name):
        return [Spec(tree.id)]
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
        return [Spec(tree.func.id, {keyword.arg or "**": _value(keyword.value) for keyword in tree.keywords})]
    raise ValueError(ast.dump(tree))


def _value(tree: ast.expr) -> Any:
    """A number, true, false or inf, or a word with or without quotes; words may have hyphens: nearest-exact."""
    if isinstance(tree, ast.Name):
        return {"true": True, "false": False, "inf": math.inf}.get(tree.id, tree.id)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.operand, ast.Name) and tree.operand.id == "inf":
        return -math.inf
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Sub):
        words = _value(tree.left), _value(tree.right)
        if all(isinstance(word, str) for word in words):
            return "-".join(words)
    return ast.literal_eval(tree)


def _written(value: Any) -> str:
    """A value in the form that `_value` reads; ValueError if it has none."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, str) and value.isidentifier() and value not in ("true", "false", "inf"):
        return value
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):  # NumPy's numbers among them
        return repr(float(value))
    if isinstance(value, (str, tuple, list)):
        return repr(cast("object", value))
    raise ValueError(f"{value!r} has no text form: it can be given in Python only")


class Registry(Mapping[str, Row], Generic[Row]):
    """Rows by name, in the order in which they were added.

    Args:
        kind: What a row is, for errors: "sampler", "schedule", "guidance mod".
        rows: Rows to begin with.
    """

    def __init__(self, kind: str, rows: Iterable[Row] = ()):
        self.kind = kind
        self._rows: dict[str, Row] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Add a row; it replaces one of the same name."""
        self._rows[row.name] = row

    def remove(self, name: str) -> None:
        """Remove the row of a name; ValueError with the nearest names if it is unknown."""
        self.lookup(name)
        del self._rows[name]

    def lookup(self, name: str) -> Row:
        """The row of that name; ValueError with the nearest names if it is unknown."""
        return named(self._rows, name, self.kind)

    def __getitem__(self, name: str) -> Row:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def shown(value: object) -> str:
    """A value as an error message quotes it: on one line, and cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or values within values
        return f"a {type(value).__name__} that is too large to print"
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 30]} … {text[-20:]}"


def near_miss(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: '; did you mean …?', or the list of known names."""
    known = sorted(known)
    return nearest(name, known) or f"; known: {', '.join(known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: '; did you mean …?', or nothing where no name is near."""
    close = difflib.get_close_matches(name[:LONGEST], sorted(known), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(close)}?" if close else ""


def named(table: Mapping[str, V], name: str, kind: str) -> V:
    """The value of that name in a table; ValueError with the nearest names if it is unknown."""
    if name not in table:
        raise ValueError(f"unknown {kind} {shown(name)}{near_miss(name, table)}")
    return table[name]
