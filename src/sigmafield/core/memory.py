"""What wrappers remember from step to step: plain nested values, read and written through typed slots.

A memory holds tensors, numbers, booleans, strings, tuples of numbers, and dictionaries of these, so that a checkpoint
can store it whatever wrote it. A `Slot` is one wrapper's place in it, with the type of what is kept there.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

Memory = dict[str, Any]
"""Values carried from step to step, by name. Values are replaced, never mutated."""

T = TypeVar("T")


@dataclass(frozen=True)
class Slot(Generic[T]):
    """One wrapper's entry in a `Memory`: its name, and the frozen dataclass that is kept there.

        APG = Slot("apg", Momentum)
        last = APG.read(ctx.aux)          # Momentum, or None
        APG.write(ctx.aux, Momentum(difference, level))

    Args:
        name: Key in the memory, unique among wrappers.
        kind: A dataclass whose fields are values that a memory may hold. A field that is None is left out, and has to
            have a default. An entry that holds memories of its own (`scope`) needs none.
    """

    name: str
    kind: type[T] = dict  # type: ignore[assignment]

    def read(self, memory: MutableMapping[str, Any]) -> T | None:
        """What is kept, or None where nothing is."""
        entry = memory.get(self.name)
        return None if entry is None else self.kind(**entry)

    def write(self, memory: MutableMapping[str, Any], value: T) -> None:
        """Keep a value in place of what was kept."""
        entries = {f.name: getattr(value, f.name) for f in fields(value)}  # type: ignore[arg-type]
        memory[self.name] = {name: entry for name, entry in entries.items() if entry is not None}

    def clear(self, memory: MutableMapping[str, Any]) -> None:
        """Keep nothing."""
        memory.pop(self.name, None)

    def scope(self, memory: MutableMapping[str, Any], key: object) -> Memory:
        """A memory of its own within this entry, for each key: what a tile's guidance remembers is the tile's."""
        inner = dict(memory.get(self.name, {}))
        return dict(inner.get(str(key), {}))

    def keep(self, memory: MutableMapping[str, Any], key: object, inner: Memory) -> None:
        """Keep a memory that `scope` gave, under its key."""
        memory[self.name] = {**memory.get(self.name, {}), str(key): inner}
