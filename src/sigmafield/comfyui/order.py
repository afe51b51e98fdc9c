"""Which node runs next: nodes wait for those that they have links from, and outputs come as early as they can."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count

EARLY, BEFORE, TWICE, LATE = range(4)
"""Ranks: nodes that run early, nodes that one of these waits for, nodes two before one, and all others."""


class Order:
    """Nodes that are still to run, in the order in which they were asked for.

    A step costs as many operations as a node has links, times the logarithm of the number of nodes that can run: the
    rank of a node is updated when a link is added, and can only become better while the node waits.

    Args:
        sources: The nodes that a node has to wait for; those that are known already are left out.
        early: Whether a node runs as soon as it can: one that is an output or that waits for something else.
    """

    def __init__(self, sources: Callable[[str], Iterable[str]], early: Callable[[str], bool]):
        self.sources = sources
        self.early = early
        self.blockers: dict[str, set[str]] = {}
        self.held: set[str] = set()
        self._dependents: dict[str, set[str]] = {}
        self._ranks: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._count = count()
        self._ready: list[tuple[int, int, str]] = []

    def add(self, names: Iterable[str]) -> None:
        """Add nodes, and those that they wait for."""
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in self.blockers:
                sources = list(dict.fromkeys(self.sources(name)))
                self.blockers[name] = set(sources)
                self._numbers[name] = next(self._count)
                self._improve(name, EARLY if self.early(name) else LATE)
                self._link(name, sources)
                waiting.extend(sources)

    def block(self, name: str, sources: Iterable[str]) -> None:
        """Make a node wait for others."""
        wanted = list(dict.fromkeys(sources))
        self._link(name, wanted)
        self.add(wanted)

    def hold(self, name: str) -> None:
        """Make a node wait until `release`."""
        self.held.add(name)

    def release(self, name: str) -> None:
        """End what `hold` began."""
        self.held.discard(name)
        self._offer(name)

    def done(self, name: str) -> None:
        """Remove a node; those that wait for it no longer do."""
        del self.blockers[name], self._ranks[name], self._numbers[name]
        for each in self._dependents.pop(name, ()):
            self.blockers[each].discard(name)
            self._offer(each)

    def next(self) -> str | None:
        """The node that should run now; None where all wait for something.

        Of the nodes that can run: one that runs early, one that such a node waits for, one that is two nodes before
        it, else the first.
        """
        while self._ready:
            rank, number, name = self._ready[0]
            if self._can_run(name) and (rank, number) == (self._ranks[name], self._numbers[name]):
                return name
            heappop(self._ready)
        return None

    def _can_run(self, name: str) -> bool:
        return name in self.blockers and not self.blockers[name] and name not in self.held

    def _offer(self, name: str) -> None:
        """Put a node among those that can run, if it can; an entry with its former rank is skipped later."""
        if self._can_run(name):
            heappush(self._ready, (self._ranks[name], self._numbers[name], name))

    def _link(self, name: str, sources: Iterable[str]) -> None:
        """Make a node wait for others, which run the earlier the earlier it runs."""
        rank = self._ranks[name]
        for each in sources:
            self.blockers[name].add(each)
            self._dependents.setdefault(each, set()).add(name)
            self._improve(each, rank + 1)
        self._offer(name)

    def _improve(self, name: str, rank: int) -> None:
        """Note a rank if it is better than the node's, and what follows for the nodes that it waits for."""
        if rank >= self._ranks.get(name, LATE + 1):
            return
        self._ranks[name] = min(rank, LATE)
        self._offer(name)
        for each in self.blockers.get(name, ()):
            self._improve(each, self._ranks[name] + 1)
