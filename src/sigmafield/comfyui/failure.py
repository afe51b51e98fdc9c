"""The event of a node that raised an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sigmafield.comfyui.events import Failed
from sigmafield.comfyui.known import Known

LONGEST = 2000
"""Characters of an input's text in an error."""


def failure(known: Known, name: str, error: Exception, executed: Sequence[str]) -> Failed:
    """The event of an error.

    Args:
        known: The graph and the results of its nodes.
        name: The node that raised it; "" between two nodes.
        error: The error.
        executed: The nodes that have run.
    """
    if not name:
        return Failed("", "", "", error, {}, tuple(executed))
    texts = {key: [_text(value) for value in values] for key, values in known.lists(name).items()}
    kind = str(known.graph.nodes[name]["class_type"])
    return Failed(name, known.graph.display(name), kind, error, texts, tuple(executed))


def _text(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)[:LONGEST]
