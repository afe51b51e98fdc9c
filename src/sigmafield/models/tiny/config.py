"""Reading the config.json of a component into a frozen dataclass, and refusing what its module cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from sigmafield.core.registry import near_miss

Settings = TypeVar("Settings")


def settings(kind: type[Settings], config: Mapping[str, Any], only: Mapping[str, Any]) -> Settings:
    """Fills a dataclass from a config.

    Args:
        kind: The dataclass.
        config: The config; keys that begin with an underscore are ignored, lists become tuples.
        only: Keys without a field in the dataclass, with the one value that is supported.

    Raises:
        ValueError: If a key is unknown or its value is not supported.
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
    """Returns a value that is supported; raises ValueError for others."""
    if value not in supported:
        raise ValueError(f"config: {key} = {value!r} is not supported; supported: {', '.join(map(repr, supported))}")
    return value


def per_level(value: int | tuple[int, ...], levels: int, key: str) -> tuple[int, ...]:
    """Gives one number per level of a UNet, from one number for all levels or a tuple.

    Raises:
        ValueError: If the tuple's length is not `levels`.
    """
    values = (value,) * levels if isinstance(value, int) else value
    if len(values) != levels:
        raise ValueError(f"config: {key} = {value!r} must be one number, or {levels}: one per level")
    return values
