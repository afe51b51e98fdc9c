"""What wrappers remember from step to step: plain nested values, read and written through typed slots.

A memory holds tensors, numbers, booleans, strings, and tuples and dictionaries of these, so that a checkpoint can store
it without knowing who wrote it. A `Slot` is one wrapper's entry in it, with the type of its value.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

Memory = dict[str, Any]
"""Values that are carried from step to step, by name. Values are replaced, never changed in place."""

T = TypeVar("T")


@dataclass(frozen=True)
class Slot(Generic[T]):
    """One wrapper's entry in a `Memory`: its name and the frozen dataclass that is stored there.

        APG = Slot("apg", Momentum)
        last = APG.read(ctx.aux)          # Momentum, or None
        APG.write(ctx.aux, Momentum(difference, level))

    Args:
        name: Key in the memory, unique among wrappers.
        kind: A dataclass whose fields are values that a memory may hold. Fields that are None are not stored, and have
            to have a default. An entry that holds memories of its own (`scope`) has no kind.
    """

    name: str
    kind: type[T] = dict  # type: ignore[assignment]

    def read(self, memory: MutableMapping[str, Any]) -> T | None:
        """The stored value, or None."""
        entry = memory.get(self.name)
        return None if entry is None else self.kind(**entry)

    def write(self, memory: MutableMapping[str, Any], value: T) -> None:
        """Store a value, replacing the one before."""
        entries = {f.name: getattr(value, f.name) for f in fields(value)}  # type: ignore[arg-type]
        memory[self.name] = {name: entry for name, entry in entries.items() if entry is not None}

    def clear(self, memory: MutableMapping[str, Any]) -> None:
        """Remove the stored value."""
        memory.pop(self.name, None)

    def scope(self, memory: MutableMapping[str, Any], key: object) -> Memory:
        """The memory stored in this entry under a key, such as a tile, for a wrapper inside of this one."""
        inner = dict(memory.get(self.name, {}))
        return dict(inner.get(str(key), {}))

    def keep(self, memory: MutableMapping[str, Any], key: object, inner: Memory) -> None:
        """Store the memory that `scope` gave, under the same key."""
        memory[self.name] = {**memory.get(self.name, {}), str(key): inner}
