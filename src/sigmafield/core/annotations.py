"""What a type annotation says about the values of a parameter: their type, their choices and their range."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import numpy as np

WORDS: dict[type, str] = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
"""The plain types, as error messages and tables name them."""


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`.

    A bound may be the name of another parameter. A bound whose value is not a number is ignored.

    Args:
        low: Lower bound.
        high: Upper bound; None allows every finite number, math.inf allows infinity as well.
        above: Excludes the lower bound itself.
        below: Excludes the upper bound itself.
    """

    low: int | float | str
    high: int | float | str | None = None
    above: bool = False
    below: bool = False

    def text(self, name: str) -> str:
        """The range of the parameter `name` as text: "eta ≥ 0", "0 < r ≤ 1"."""
        if self.high is None or self.high == math.inf:
            return f"{name} {'>' if self.above else '≥'} {self.low}"
        return f"{self.low} {'<' if self.above else '≤'} {name} {'<' if self.below else '≤'} {self.high}"

    def has(self, value: int | float, values: Mapping[str, Any]) -> bool:
        """Whether `value` is in the range; `values` holds all parameters, for bounds that are names."""
        low, high = (values.get(end) if isinstance(end, str) else end for end in (self.low, self.high))
        if isinstance(low, (int, float)) and not (value > low or (value == low and not self.above)):
            return False
        if isinstance(high, (int, float)):
            return value < high or (value == high and not self.below)
        return abs(value) < math.inf  # math.isfinite refuses integers beyond floats

    @property
    def names(self) -> list[str]:
        """The bounds that are names of other parameters."""
        return [end for end in (self.low, self.high) if isinstance(end, str)]

    def schema(self) -> dict[str, Any]:
        """The numeric bounds as JSON schema keywords."""
        bounds: dict[str, Any] = {}
        if not isinstance(self.low, str) and math.isfinite(self.low):
            bounds["exclusiveMinimum" if self.above else "minimum"] = self.low
        if self.high is not None and not isinstance(self.high, str) and math.isfinite(self.high):
            bounds["exclusiveMaximum" if self.below else "maximum"] = self.high
        return bounds


def split(hint: Any) -> tuple[list[Any], Range | None]:
    """The alternatives of an annotation without None and `Annotated`, and its `Range`."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        alternatives, within = split(inner)
        return alternatives, next((note for note in notes if isinstance(note, Range)), within)
    if get_origin(hint) in (Union, types.UnionType):
        parts = [split(each) for each in get_args(hint)]
        return [each for found, _ in parts for each in found], next((r for _, r in parts if r), None)
    return ([] if hint is type(None) else [hint]), None


def optional(hint: Any) -> bool:
    """Whether an annotation allows None."""
    if get_origin(hint) is Annotated:
        return optional(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return any(optional(each) for each in get_args(hint))
    return hint is None or hint is type(None)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type, at any depth of tuples and sequences; ranges are not checked.

    Integers count as numbers, true and false do not; numpy's numbers count as Python's.
    """
    if value is None:
        return hint is Any or optional(hint)
    return any(_fits(value, each) for each in split(hint)[0])


def _fits(value: Any, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if kind is float or kind is int:
        return not isinstance(value, bool) and isinstance(value, Real if kind is float else Integral)
    if kind is bool:
        return isinstance(value, (bool, np.bool_))
    if origin is Literal:
        return any(fits(value, type(choice)) and value == choice for choice in args)
    if is_sequence(kind):
        items = cast("Sequence[Any]", value) if isinstance(value, (tuple, list)) else None
        hints = None if items is None else hints_of(kind, len(items))
        return items is not None and hints is not None and all(map(fits, items, hints))
    of: Any = origin or kind
    closed = getattr(of, "_is_protocol", False) and not getattr(of, "_is_runtime_protocol", False)
    return isinstance(value, of) if isinstance(of, type) and not closed else True


def convert(value: Any, hint: Any) -> Any:
    """A value that fits, as Python's own: numpy's numbers converted, integers made float where floats are wanted."""
    alternatives, _ = split(hint)
    if isinstance(value, np.bool_):
        return bool(cast("object", value))
    if not isinstance(value, bool) and isinstance(value, Real):
        number = cast("int | float", cast("object", value))
        if isinstance(value, Integral) and float not in alternatives:
            return int(number)
        try:
            return float(number)
        except OverflowError:  # an integer of more than 308 digits
            return math.inf if number > 0 else -math.inf
    if isinstance(value, (tuple, list)) and len(alternatives) == 1 and is_sequence(alternatives[0]):
        items = cast("Sequence[Any]", value)
        return tuple(map(convert, items, hints_of(alternatives[0], len(items)) or ()))
    return cast("Any", value)


def is_sequence(kind: Any) -> bool:
    """Whether a type is a tuple, a list or another sequence of values; text and bytes are not."""
    of = get_origin(kind) or kind
    return isinstance(of, type) and issubclass(of, Sequence) and not issubclass(of, (str, bytes))


def hints_of(kind: Any, n: int) -> list[Any] | None:
    """The annotations of the n items of a sequence type; None if it has another number of items."""
    args = get_args(kind)
    if get_origin(kind) is tuple and Ellipsis not in args:
        return list(args) if len(args) == n else None
    return [args[0] if args else Any] * n


def describe(hint: Any) -> str:
    """An annotated type in words: "a whole number", "true or false", "a or b", "a list of Region objects"."""
    return " or ".join(_describe(each) for each in split(hint)[0]) or "nothing"


def _describe(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if kind in WORDS:
        return WORDS[kind]
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin is tuple and Ellipsis not in args:
        return f"{len(args)} values ({', '.join(map(describe, args))})"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        name = getattr(args[0], "__name__", "anything")
        return f"a list of {f'{name} objects' if is_dataclass(args[0]) else describe(args[0])}"
    if isinstance(origin or kind, type) and issubclass(origin or kind, Mapping):
        return "a mapping"
    if origin is Callable:
        return "a function"
    name = getattr(kind, "__name__", "anything")
    return f"an object of {name}" if is_dataclass(kind) else name
