"""Parameters of samplers, schedules, mods and options: declared once, in annotations and docstrings.

    eta: Annotated[float, Range(0)],   solver: Literal["midpoint", "heun"]

They are checked before a run. Command line options, documentation tables and node inputs are generated from them.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, cast, get_args, get_origin, get_type_hints

import docstring_parser
import numpy as np
from torch import Tensor

from sigmafield.core.annotations import WORDS, Range, convert, describe, fits, optional, split
from sigmafield.core.registry import Spec, near_miss, nearest, shown

P = ParamSpec("P")
V = TypeVar("V")

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character: what is left of bytes that are not UTF-8, and of half an escape in JSON."""

LARGEST = float(np.finfo(np.float32).max)
"""The largest number that a latent can be multiplied with."""

NonNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function, or a field of a dataclass.

    Args:
        name: Its name.
        default: Its default; None where the run decides, and where it is required.
        annotation: Its type as declared, with `Annotated`.
        kind: float, int, bool or str; None for any other type.
        choices: All allowed values, where they are listed.
        words: Words that are allowed in place of a value of `kind`, as in `float | Literal["size"]`.
        range: The allowed numbers.
        field: Whether a tensor is allowed as well, whose values the function checks itself.
        required: Whether it has no default. Only fields are; a function fills in what is not given.
        doc: One sentence that says what it does, from the `Args:` of the docstring.
    """

    name: str
    default: Any
    annotation: Any = Any
    kind: type | None = None
    choices: tuple[Any, ...] = ()
    words: tuple[Any, ...] = ()
    range: Range | None = None
    field: bool = False
    required: bool = False
    doc: str = ""

    @property
    def values(self) -> str:
        """The allowed values as text: "eta ≥ 0", "midpoint or heun", "a whole number, 1 ≤ max_order ≤ 4"."""
        if self.choices:
            return " or ".join(map(str, self.choices))
        if self.kind is None:
            return "a function" if callable(self.default) else describe(self.annotation)
        plain = WORDS[self.kind] if self.range is None else self.range.text(self.name)
        whole = "a whole number, " if self.kind is int and self.range is not None else ""
        return " or ".join([whole + plain, *map(str, self.words)])

    def read(self, owner: str, value: Any) -> Any:
        """The value as Python's own; ValueError if it has another type. `owner` is named in the error."""
        if value is None and (optional(self.annotation) or (self.default is None and not self.required)):
            return None
        if (self.field and isinstance(value, Tensor)) or (isinstance(value, str) and value in self.words):
            return value
        kind = self.annotation if self.choices or self.words or self.field else self.kind or self.annotation
        if not fits(value, kind):
            rule = f"= {self.values}" if self.choices or self.words else f"to be {describe(kind)}"
            near = nearest(value, map(str, self.choices)) if isinstance(value, str) and self.choices else ""
            raise ValueError(f"{owner} needs {self.name} {rule}; got {shown(value)}{near}")
        if isinstance(value, str) and SURROGATE.search(value):
            raise ValueError(f"{owner} needs {self.name} to be Unicode text, which UTF-8 can hold; got {value!a}")
        return convert(value, self.annotation)

    def check_range(self, owner: str, values: Mapping[str, Any]) -> None:
        """Raise ValueError if the number of this name is out of range; `values` holds all parameters as `read`."""
        value = values[self.name]
        if not isinstance(value, (int, float)) or self.kind not in (int, float):
            return
        if self.range and not self.range.has(value, values):
            others = "".join(f" and {end} = {values[end]:g}" for end in self.range.names if fits(values[end], float))
            raise ValueError(f"{owner} needs {self.range.text(self.name)}; got {_number(value)}{others}")
        if self.range is None and not abs(value) < math.inf:
            raise ValueError(f"{owner} needs {self.name} to be finite; got {_number(value)}")
        if self.kind is float and LARGEST < abs(value) < math.inf:
            raise ValueError(f"{owner} needs {self.name} within ±{LARGEST:g}, what float32 holds; got {_number(value)}")

    def schema(self) -> dict[str, Any]:
        """A JSON schema of the values, with the default and the documentation."""
        found = _schema(self.annotation, nullable=self.default is None and not self.required)
        named_bounds = f"{self.range.text(self.name)}." if self.range and self.range.names else ""
        if text := " ".join(filter(None, [self.doc, named_bounds])):
            found["description"] = text
        if not self.required:
            found |= _default(self.default)
        return found


MANY = 10**12
"""Whole numbers from here on are shown with an exponent."""


def _number(value: int | float) -> str:
    """A number as error messages show it."""
    try:
        return str(value) if isinstance(value, int) and abs(value) < MANY else f"{value:g}"
    except OverflowError:  # an integer beyond floats
        return shown(value)


def check(owner: str, known: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values as Python's own numbers, floats where the parameter is a float.

    Args:
        owner: What the parameters belong to, for errors.
        known: All parameters by name.
        given: Values by name; the others keep their defaults.

    Raises:
        ValueError: A parameter is unknown or missing, has another type or is out of range.
    """
    for name in given:
        if name not in known:
            there = near_miss(name, known) if known else "; it has none"
            raise ValueError(f"{owner} has no parameter {name!r}{there}")
    for name, parameter in known.items():
        if parameter.required and name not in given:
            raise ValueError(f"{owner} needs {name}; it has no default")
    values = {name: parameter.default for name, parameter in known.items()} | dict(given)
    values = {name: known[name].read(owner, value) for name, value in values.items()}
    for parameter in known.values():
        parameter.check_range(owner, values)
    return {name: values[name] for name in given}


def checked(function: Callable[P, V]) -> Callable[P, V]:
    """The function with its keyword-only arguments checked at every call, as `check` does."""
    positional = {a.name for a in inspect.signature(function).parameters.values() if not by_keyword(a)}

    @wraps(function)
    def call(*args: P.args, **given: P.kwargs) -> V:
        own = {name: value for name, value in given.items() if name not in positional}
        settled = {**given, **check(function.__name__, keywords(function), own)}
        return cast("Callable[..., V]", function)(*args, **settled)

    return call


def settle(value: Any, owner: str) -> None:
    """Check the fields of a frozen dataclass and make their numbers Python's own; for `__post_init__`.

    Raises:
        ValueError: A field has another type or is out of range.
    """
    known = fields_of(cast("type[Any]", type(value)))
    given = {name: getattr(value, name) for name in known}
    for name, settled in check(owner, known, given).items():
        if settled is not given[name]:
            object.__setattr__(value, name, settled)


@cache
def parameters(function: Callable[..., Any], chosen: Callable[[inspect.Parameter], bool]) -> tuple[Parameter, ...]:
    """The arguments of a function for which `chosen` is true."""
    hints, docs = get_type_hints(function, include_extras=True), _docs(function)
    arguments = [each for each in inspect.signature(function).parameters.values() if chosen(each)]
    found: list[Parameter] = []
    for each in arguments:
        default = None if each.default is inspect.Parameter.empty else each.default
        found.append(_read(each.name, default, hints.get(each.name, type(default)), docs.get(each.name, "")))
    return tuple(found)


def keywords(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword-only arguments of a function, by name."""
    return {parameter.name: parameter for parameter in parameters(function, by_keyword)}


def by_keyword(argument: inspect.Parameter) -> bool:
    """Whether an argument is keyword-only."""
    return argument.kind is inspect.Parameter.KEYWORD_ONLY


@cache
def fields_of(cls: type) -> Mapping[str, Parameter]:
    """The fields that a dataclass is constructed with, by name."""
    hints, docs = get_type_hints(cls, include_extras=True), _docs(cls)
    found: dict[str, Parameter] = {}
    for each in dataclasses.fields(cls):
        if each.init:
            made = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
            required = made is dataclasses.MISSING
            row = _read(each.name, None if required else made, hints[each.name], docs.get(each.name, ""))
            found[each.name] = dataclasses.replace(row, required=required)
    return found


def schema_of(cls: type) -> dict[str, Any]:
    """The JSON schema of a dataclass: an object with its fields and no others."""
    known = fields_of(cls)
    return {
        "type": "object",
        "properties": {name: parameter.schema() for name, parameter in known.items()},
        "required": [name for name, parameter in known.items() if parameter.required],
        "additionalProperties": False,
    }


def _docs(owner: Callable[..., Any]) -> dict[str, str]:
    """The sentences of the `Args:` section of a docstring, by name."""
    parsed = docstring_parser.parse(owner.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
    return {each.arg_name: " ".join((each.description or "").split()) for each in parsed.params}


def _read(name: str, default: Any, hint: Any, doc: str) -> Parameter:
    """A parameter from its annotation."""
    alternatives, within = split(hint)
    literal = tuple(value for each in alternatives if get_origin(each) is Literal for value in get_args(each))
    types_ = [each for each in alternatives if get_origin(each) is not Literal]
    if literal and not types_:
        return Parameter(name, default, hint, cast("type[Any]", type(literal[0])), literal, doc=doc)
    kind = next((each for each in types_ if each in WORDS), None)
    others = any(each is not kind for each in types_)
    return Parameter(name, default, hint, kind, (), literal, within, others, doc=doc)


NAMES: dict[type, str] = {float: "number", int: "integer", bool: "boolean", str: "string", Path: "string"}
"""JSON's names of plain types."""


def _schema(hint: Any, nullable: bool = False) -> dict[str, Any]:
    """The JSON schema of an annotated type; {} allows everything."""
    alternatives, within = split(hint)
    found = [schema for schema in map(_type_schema, alternatives) if schema is not None]
    bounds = within.schema() if within else {}
    found = [schema | (bounds if schema.get("type") in ("number", "integer") else {}) for schema in found]
    flat = [each for schema in found for each in schema.get("anyOf", [schema])]
    found = [each for k, each in enumerate(flat) if each not in flat[:k]]  # a path is text, as JSON has it
    if {} in found or not found:
        return {}
    if nullable or optional(hint):
        if len(found) == 1 and "type" in found[0]:
            return {**found[0], "type": [found[0]["type"], "null"]}
        found.append({"type": "null"})
    return found[0] if len(found) == 1 else {"anyOf": found}


def _type_schema(kind: Any) -> dict[str, Any] | None:
    """The JSON schema of one alternative; None for tensors, bytes and functions, which JSON cannot hold."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is bytes:
        return None
    if kind in NAMES:
        return {"type": NAMES[kind]}
    if origin is Literal:
        return {"enum": list(args)}
    if kind is Spec:
        return {"anyOf": [{"type": "string"}, schema_of(Spec)]}
    if dataclasses.is_dataclass(kind):
        return schema_of(kind)  # pyright: ignore[reportArgumentType]
    if origin is tuple and Ellipsis not in args:
        return {"type": "array", "prefixItems": [_schema(each) for each in args], "minItems": len(args), "items": False}
    of = origin or kind
    if isinstance(of, type) and issubclass(of, Sequence):
        return {"type": "array", "items": _schema(args[0])} if args else {"type": "array"}
    if isinstance(of, type) and issubclass(of, Mapping):
        return {"type": "object"}
    return {} if kind is Any else None


def _default(value: Any) -> dict[str, Any]:
    """{"default": value} where JSON can hold it, else {}."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {}
    return {"default": value} if value is None or isinstance(value, (bool, int, float, str, list, tuple, dict)) else {}
