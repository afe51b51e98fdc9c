"""Values as JSON holds them: dataclasses as objects, tuples as arrays, named things as text or objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from sigmafield.core.annotations import WORDS, convert, describe, fits, hints_of, is_sequence, optional, split
from sigmafield.core.parameters import fields_of
from sigmafield.core.registry import Spec, format_specs, near_miss, parse_specs, shown

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """A value of dataclasses, sequences, mappings and plain values, as JSON holds it; specs as their text."""
    if isinstance(value, Spec):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {key: to_plain(each) for key, each in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, (tuple, list)):
        entries = cast("Sequence[Any]", value)
        if entries and all(isinstance(each, Spec) for each in entries):
            return format_specs(entries)
        return [to_plain(each) for each in entries]
    return str(value) if isinstance(value, Path) else value


def from_plain(cls: type[T], values: Any, owner: str) -> T:
    """The dataclass that `to_plain` gave as an object; its own rules are checked by its constructor.

    A `Spec` may be written as text, "apg(eta=0.5)", and a sequence of them as one text, "apg(eta=0.5)+cfg_norm".

    Args:
        cls: The dataclass.
        values: An object, as `json.loads` gives it.
        owner: What the object is, for errors: "the recipe".

    Raises:
        ValueError: An entry is unknown, missing or of another type; the error names its path.
    """
    known = fields_of(cls)
    if not isinstance(values, Mapping):
        raise ValueError(f"{owner} must be an object; got {shown(values)}")
    given = cast("Mapping[str, Any]", values)
    for name in given:
        if name not in known:
            raise ValueError(f"{owner} has an unknown entry {shown(name)}{near_miss(name, known)}")
    for name, parameter in known.items():
        if parameter.required and name not in given:
            raise ValueError(f"{owner} needs {name}; it has no default")
    read = {name: _read(known[name].annotation, value, f"{owner}: {name}") for name, value in given.items()}
    return cls(**read)


def _read(hint: Any, value: Any, path: str) -> Any:
    """A value of an annotated type, from what JSON holds."""
    if value is None and (hint is Any or optional(hint)):
        return None
    alternatives, _ = split(hint)
    for kind in alternatives:
        if isinstance(value, str) and str in alternatives:
            return value  # the class reads its texts itself
        if kind is Spec and isinstance(value, str):
            return Spec.parse(value, path)
        if kind is Path and isinstance(value, str):
            return Path(value)
        if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
            return from_plain(cast("type[Any]", kind), value, path)
        if is_sequence(kind) and isinstance(value, (tuple, list)):
            items = cast("Sequence[Any]", value)
            if (hints := hints_of(kind, len(items))) is None:
                break
            return tuple(_read(each, item, f"{path}[{k}]") for k, (each, item) in enumerate(zip(hints, items)))
        if is_sequence(kind) and Spec in get_args(kind) and isinstance(value, str):
            return parse_specs(value, path, "name(parameter=0.5)+name")
    if not fits(value, hint):
        in_json = [describe(kind) for kind in alternatives if _is_plain(kind)]
        rule = " or ".join(in_json) or describe(hint)
        raise ValueError(f"{path} must be {rule}; got {shown(cast('object', value))}")
    return convert(value, hint)


def _is_plain(kind: Any) -> bool:
    """Whether JSON has values of a type, in a form of their own."""
    return kind in WORDS or get_origin(kind) is Literal or is_sequence(kind) or dataclasses.is_dataclass(kind)
