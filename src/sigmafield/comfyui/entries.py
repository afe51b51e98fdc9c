"""Results of nodes, as the executor keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """What a node gave.

    Args:
        values: A list per output.
        ui: What an interface shows; None for nothing.
    """

    values: tuple[Sequence[Any], ...]
    ui: Mapping[str, Sequence[Any]] | None = None
