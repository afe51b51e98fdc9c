"""Results of nodes that are kept from one prompt to the next: by what a node computes, whatever its id is."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from sigmafield.comfyui.context import Context
from sigmafield.comfyui.definition import Definition
from sigmafield.comfyui.entries import Entry
from sigmafield.comfyui.graph import Graph, link, literal

GROWTH = 1.3
"""How much faster an entry is dropped for each prompt that did not need it."""


class Keys:
    """Names of what nodes compute: equal for equal classes with equal inputs, None for what is never kept.

    Args:
        nodes: The classes.
        context: What a class's fingerprint may ask.
    """

    def __init__(self, nodes: Mapping[str, Definition], context: Context):
        self.nodes = nodes
        self.context = context
        self.known: dict[str, str | None] = {}

    def of(self, name: str, graph: Graph) -> str | None:
        """The key of a node of an acyclic graph."""
        waiting = [] if name in self.known else [name]
        while waiting:
            current = waiting[-1]
            links = [link(value) for value in graph.nodes[current].get("inputs", {}).values()]
            missing = [each.node for each in links if each and each.node not in self.known and each.node in graph.nodes]
            if missing:
                waiting += missing
            else:
                self.known.setdefault(current, self._key(current, graph))
                waiting.pop()
        return self.known[name]

    def _key(self, name: str, graph: Graph) -> str | None:
        node = graph.nodes[name]
        definition = self.nodes[node["class_type"]]
        inputs: dict[str, Any] = {}
        for key, value in node.get("inputs", {}).items():
            source = link(value)
            if source is not None and self.known.get(source.node) is None:
                return None
            inputs[key] = (
                {"value": literal(value)} if source is None else {"key": self.known[source.node], "slot": source.slot}
            )
        alone = definition.fresh or "UNIQUE_ID" in definition.hidden.values()
        try:
            about = [definition.name, self._fingerprint(name, node, definition), name if alone else None, inputs]
            text = json.dumps(about, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError):  # a value that is never equal to itself, or that has no text
            return None
        return hashlib.sha256(text.encode()).hexdigest()

    def _fingerprint(self, name: str, node: Mapping[str, Any], definition: Definition) -> Any:
        if "is_changed" in node:
            return node["is_changed"]
        if definition.fingerprint is None:
            return False
        values = {key: None if link(each) else literal(each) for key, each in node.get("inputs", {}).items()}
        try:
            return definition.fingerprint.ask(values, replace(self.context, node=name))
        except Exception as error:
            raise ValueError(f"node {name} has no fingerprint: {error}") from error


@runtime_checkable
class Cache(Protocol):
    """Where results are kept."""

    def begin(self, wanted: Collection[str]) -> None:
        """A prompt begins; `wanted` are the keys of its nodes."""
        ...

    def get(self, key: str) -> Entry | None:
        """The result of that key."""
        ...

    def put(self, key: str, entry: Entry, owner: str | None) -> None:
        """Keep a result; `owner` is the key of the prompt's node whose expansion the node comes from, or its own."""
        ...


class Forgetful:
    """Keeps nothing."""

    def begin(self, wanted: Collection[str]) -> None:
        """Nothing to do."""

    def get(self, key: str) -> Entry | None:
        """None."""
        return None

    def put(self, key: str, entry: Entry, owner: str | None) -> None:
        """Nothing to do."""


class LastPrompt:
    """Keeps what the prompt before this one computed as far as this one needs it, and the expansions that it used."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.expanded: set[str] = set()
        self.used: set[str] = set()

    def begin(self, wanted: Collection[str]) -> None:
        """Drop what the new prompt does not need, and what no expansion needed in the last one."""
        kept = (self.expanded & self.used) | set(wanted)
        self.entries = {key: each for key, each in self.entries.items() if key in kept}
        self.used = set()

    def get(self, key: str) -> Entry | None:
        """The result of that key."""
        self.used.add(key)
        return self.entries.get(key)

    def put(self, key: str, entry: Entry, owner: str | None) -> None:
        """Keep a result."""
        self.entries[key] = entry
        self.used.add(key)
        if owner != key:
            self.expanded.add(key)


class LeastRecent:
    """Keeps the results that were used last.

    Args:
        n: How many.

    Raises:
        ValueError: n is not positive.
    """

    def __init__(self, n: int):
        if n < 1:
            raise ValueError(f"a cache of the results used last needs n ≥ 1; got {n}")
        self.n = n
        self.entries: OrderedDict[str, Entry] = OrderedDict()

    def begin(self, wanted: Collection[str]) -> None:
        """Nothing to do."""

    def get(self, key: str) -> Entry | None:
        """The result of that key."""
        if key in self.entries:
            self.entries.move_to_end(key)
        return self.entries.get(key)

    def put(self, key: str, entry: Entry, owner: str | None) -> None:
        """Keep a result, and drop the one that was not used for the longest time."""
        self.entries[key] = entry
        self.entries.move_to_end(key)
        while len(self.entries) > self.n:
            self.entries.popitem(last=False)


@dataclass
class _Kept:
    entry: Entry
    size: int
    age: int = 0


class BySize:
    """Keeps results up to a size; large ones that were not needed for long are dropped first.

    Args:
        limit: Bytes of tensors.

    Raises:
        ValueError: The limit is negative.
    """

    def __init__(self, limit: int):
        if limit < 0:
            raise ValueError(f"a cache by size needs limit ≥ 0 bytes; got {limit}")
        self.limit = limit
        self.size = 0
        self.entries: dict[str, _Kept] = {}

    def begin(self, wanted: Collection[str]) -> None:
        """All results are one prompt older."""
        for each in self.entries.values():
            each.age += 1

    def get(self, key: str) -> Entry | None:
        """The result of that key."""
        found = self.entries.get(key)
        if found is None:
            return None
        found.age = 0
        return found.entry

    def put(self, key: str, entry: Entry, owner: str | None) -> None:
        """Keep a result, and drop others until all are below the limit."""
        self._drop(key)
        self.entries[key] = _Kept(entry, _bytes([*entry.values, entry.ui]))
        self.size += self.entries[key].size
        while self.size > self.limit:
            self._drop(max(self.entries, key=lambda key: self.entries[key].size * GROWTH ** self.entries[key].age))

    def _drop(self, key: str) -> None:
        if key in self.entries:
            self.size -= self.entries.pop(key).size


def _bytes(value: Any) -> int:
    """The size of the tensors in a value."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    parts: Iterable[Any] = value if isinstance(value, (list, tuple)) else ()
    return sum(map(_bytes, parts))
