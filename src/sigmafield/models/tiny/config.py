"""Reading the config.json of a component into a frozen dataclass, and refusing what its module cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from sigmafield.core.registry import near_miss

Settings = TypeVar("Settings")


def settings(kind: type[Settings], config: Mapping[str, Any], only: Mapping[str, Any]) -> Settings:
    """The dataclass `kind` filled from a config; keys that it has no field for must be in `only`.

    only: keys with the one value that is supported. Keys that begin with an underscore are notes and ignored;
    lists become tuples. Raises ValueError naming the key, its value and what is supported.
    """
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in config.items():
        if key in known:
            values[key] = tuple(value) if isinstance(value, list) else value
        elif key in only:
            choose(key, value, only[key])
        elif not key.startswith("_"):
            raise ValueError(f"config: unknown key {key!r} = {value!r}{near_miss(key, known | only.keys())}")
    return kind(**values)


def choose(key: str, value: Any, *supported: Any) -> Any:
    """`value`, if it is among the supported ones. Raises ValueError naming key, value and those otherwise."""
    if value not in supported:
        raise ValueError(f"config: {key} = {value!r} is not supported; supported: {', '.join(map(repr, supported))}")
    return value


def per_level(value: int | tuple[int, ...], levels: int, key: str) -> tuple[int, ...]:
    """One number a level of a UNet, from one number for all or from a tuple of them.

    Raises ValueError naming the key where a tuple has another length than `levels`.
    """
    values = (value,) * levels if isinstance(value, int) else value
    if len(values) != levels:
        raise ValueError(f"config: {key} = {value!r} must be one number or {levels}, one a level")
    return values
