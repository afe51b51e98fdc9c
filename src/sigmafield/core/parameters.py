"""What parameters of samplers, schedules and mods may be: said in their annotations, checked before a run, and shown.

eta: Annotated[float, Range(0)],   r: Annotated[float, Range(0, 1, above=True)],   solver: Literal["midpoint", "heun"]
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from sigmafield.core.registry import near_miss

V = TypeVar("V")


@dataclass(frozen=True)
class Range:
    """Finite numbers from low to high; an end may be the name of another parameter.

    high: None = no end; math.inf = infinity too. above, below: without the end itself.
    """

    low: int | float | str
    high: int | float | str | None = None
    above: bool = False
    below: bool = False

    def text(self, name: str) -> str:
        """The range of a parameter of that name: 'eta ≥ 0', '0 < r ≤ 1'."""
        if self.high is None or self.high == math.inf:
            return f"{name} {'>' if self.above else '≥'} {self.low}"
        return f"{self.low} {'<' if self.above else '≤'} {name} {'<' if self.below else '≤'} {self.high}"

    def has(self, value: int | float, values: Mapping[str, Any]) -> bool:
        """Whether the value is in the range; values: of all parameters. An end that is no number holds nothing back."""
        low, high = (values.get(end) if isinstance(end, str) else end for end in (self.low, self.high))
        if isinstance(low, (int, float)) and not (value > low or (value == low and not self.above)):
            return False
        if isinstance(high, (int, float)):
            return value < high or (value == high and not self.below)
        return math.isfinite(value)


NonNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1)]

WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
"""Values of a type, for people."""


@dataclass(frozen=True)
class Parameter:
    """A parameter: its default, None where what that is depends on the run; its type; and which values of it.

    kind: float, int, bool or str; None for another, whose values are not checked. choices: all values, if they are
    few. field: it may be a tensor too, which is left to the function.
    """

    name: str
    default: Any
    kind: type | None
    choices: tuple[Any, ...] = ()
    range: Range | None = None
    field: bool = False

    @property
    def values(self) -> str:
        """What it may be: 'eta ≥ 0', 'midpoint or heun', 'a whole number, 1 ≤ max_order ≤ 4'."""
        if self.choices:
            return " or ".join(map(str, self.choices))
        if self.kind is None:
            return "a function" if callable(self.default) else "anything"
        if self.range is None:
            return WORDS[self.kind]
        return f"a whole number, {self.range.text(self.name)}" if self.kind is int else self.range.text(self.name)

    def check(self, owner: str, values: Mapping[str, Any]) -> None:
        """Raise ValueError if the value of this name is not of its type or not in its range; values: of all."""
        if self.kind is None or (values[self.name] is None and self.default is None):
            return
        value: Any = values[self.name]
        if self.field and isinstance(value, Tensor):
            return
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"{owner} needs {self.name} = {self.values}; got {value!r}")
        elif not _is(value, self.kind):
            raise ValueError(f"{owner} needs {self.name} to be {WORDS[self.kind]}; got {value!r}")
        elif self.range and not self.range.has(value, values):
            ends = [end for end in (self.range.low, self.range.high) if isinstance(end, str)]
            beside = "".join(f" and {end} = {values[end]:g}" for end in ends if _is(values.get(end), float))
            raise ValueError(f"{owner} needs {self.range.text(self.name)}; got {value:g}{beside}")
        elif self.kind is float and self.range is None and not -math.inf < value < math.inf:
            raise ValueError(f"{owner} needs {self.name} to be finite; got {value:g}")


def _is(value: Any, kind: type) -> bool:
    """Whether a value is of the kind; whole numbers are numbers too, true and false are none."""
    if kind in (float, int):
        return isinstance(value, Real if kind is float else Integral) and not isinstance(value, bool)
    return isinstance(value, kind)


def check(owner: str, known: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, with whole numbers as floats where a parameter is one; owner: whose they are.

    Raises ValueError for a parameter that is unknown, of another type or out of range.
    """
    for name in given:
        if name not in known:
            there = near_miss(name, known) if known else "; it has none"
            raise ValueError(f"{owner} has no parameter {name!r}{there}")
    values = {name: parameter.default for name, parameter in known.items()} | dict(given)
    for parameter in known.values():
        parameter.check(owner, values)
    return {name: _number(value) if known[name].kind is float else value for name, value in given.items()}


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) else value


def checked(function: Callable[..., V]) -> Callable[..., V]:
    """The function, with its keyword-only arguments checked at every call, as `check` does."""

    @wraps(function)
    def call(*args: Any, **given: Any) -> V:
        check(function.__name__, keywords(function), given)
        return function(*args, **given)

    return call


@cache
def parameters(function: Callable[..., Any], chosen: Callable[[inspect.Parameter], bool]) -> tuple[Parameter, ...]:
    """The chosen arguments of a function, as their annotations and defaults say."""
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function).parameters.values()
    return tuple(_read(each, hints.get(each.name)) for each in signature if chosen(each))


def keywords(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The arguments that a function takes by keyword only, by name."""
    return {parameter.name: parameter for parameter in parameters(function, by_keyword)}


def by_keyword(argument: inspect.Parameter) -> bool:
    """Whether an argument is given by keyword only."""
    return argument.kind is inspect.Parameter.KEYWORD_ONLY


def _read(argument: inspect.Parameter, hint: Any) -> Parameter:
    """A parameter from its annotation, or else from its default's type."""
    default = None if argument.default is inspect.Parameter.empty else argument.default
    range_ = None
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        range_ = next((note for note in notes if isinstance(note, Range)), None)
    if get_origin(hint) is Literal:
        return Parameter(argument.name, default, type(get_args(hint)[0]), get_args(hint))
    types_ = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint or type(default),)
    kind = next((each for each in types_ if each in WORDS), None)
    return Parameter(argument.name, default, kind, (), range_, any(t not in (kind, type(None)) for t in types_))
