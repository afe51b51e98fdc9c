"""How often a node is called and with what: once for each of several values, and the outcomes joined again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sigmafield.comfyui.context import Blocked, Outcome
from sigmafield.comfyui.definition import Definition
from sigmafield.comfyui.entries import Entry
from sigmafield.comfyui.graph import Link
from sigmafield.comfyui.wire import nested


def calls(definition: Definition, lists: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The inputs of each call, by their names in the prompt.

    Args:
        definition: The class. One that takes lists is called once, with the lists.
        lists: The values of each input; shorter lists repeat their last value.

    Raises:
        ValueError: Some lists are empty and others are not.
    """
    if definition.takes_lists:
        return [dict(lists)]
    n = max(map(len, lists.values()), default=0)
    if n == 0:
        return [{}]
    if empty := [name for name, values in lists.items() if not values]:
        raise ValueError(f"input {empty[0]} has no values, and other inputs have {n}")
    return [{name: values[min(k, len(values) - 1)] for name, values in lists.items()} for k in range(n)]


def arguments(definition: Definition, call: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a call as the node receives them, those of a group in one value."""
    return nested(definition.inputs, call)


def blocked(call: Mapping[str, Any], takes_lists: bool) -> Blocked | None:
    """The first of the inputs that keeps a call from being made."""
    values = [each for value in call.values() for each in value] if takes_lists else list(call.values())
    found = [each for each in values if isinstance(each, Blocked)]
    return next((each for each in found if each.message), found[0] if found else None)


def joined(definition: Definition, outcomes: Sequence[Outcome], linked: Mapping[Link, Sequence[Any]]) -> Entry:
    """The result of a node from the outcomes of its calls.

    Args:
        definition: The class.
        outcomes: The outcomes; those of expansions have links as values.
        linked: What these links lead to.

    Raises:
        TypeError: A value that should be a list is not one.
    """
    values: list[list[Any]] = [[] for _ in definition.outputs]
    for outcome in outcomes:
        for output, found, value in zip(definition.outputs, values, outcome.values):
            if isinstance(value, Link):
                found.extend(linked[value])
            elif not output.listed or isinstance(value, Blocked):
                found.append(value)
            elif isinstance(value, (list, tuple)):
                found.extend(value)  # pyright: ignore[reportUnknownArgumentType]
            else:
                raise TypeError(f"output {output.name} of {definition.name} is a list; got {type(value).__name__}")
    return Entry(tuple(values), _shown(outcomes))


def _shown(outcomes: Sequence[Outcome]) -> dict[str, list[Any]] | None:
    """What all calls show, by kind."""
    shown = [each.ui for each in outcomes if each.ui is not None]
    if not shown:
        return None
    return {key: [value for ui in shown for value in ui.get(key, ())] for key in shown[0]}
