"""Which node runs next: nodes wait for those that they have links from, and outputs come as early as they can."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Order:
    """Nodes that are still to run, in the order in which they were asked for.

    Args:
        sources: The nodes that a node has to wait for; those that are known already are left out.
        early: Whether a node runs as soon as it can: one that is an output or that waits for something else.
    """

    def __init__(self, sources: Callable[[str], Iterable[str]], early: Callable[[str], bool]):
        self.sources = sources
        self.early = early
        self.blockers: dict[str, set[str]] = {}
        self.held: set[str] = set()

    def add(self, names: Iterable[str]) -> None:
        """Add nodes, and those that they wait for."""
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in self.blockers:
                sources = list(dict.fromkeys(self.sources(name)))
                self.blockers[name] = set(sources)
                waiting.extend(sources)

    def block(self, name: str, sources: Iterable[str]) -> None:
        """Make a node wait for others."""
        wanted = list(dict.fromkeys(sources))
        self.blockers[name] |= set(wanted)
        self.add(wanted)

    def hold(self, name: str) -> None:
        """Make a node wait until `release`."""
        self.held.add(name)

    def release(self, name: str) -> None:
        """End what `hold` began."""
        self.held.discard(name)

    def done(self, name: str) -> None:
        """Remove a node; those that wait for it no longer do."""
        del self.blockers[name]
        for waits in self.blockers.values():
            waits.discard(name)

    def next(self) -> str | None:
        """The node that should run now; None where all wait for something.

        Of the nodes that can run: one that runs early, one that such a node waits for, one that is two nodes before
        it, else the first.
        """
        ready = [name for name, waits in self.blockers.items() if not waits and name not in self.held]
        early = {name for name in self.blockers if self.early(name)}
        before = {source for name in early for source in self.blockers[name]}
        twice = {source for name in before for source in self.blockers.get(name, ())}
        ranked = (next((name for name in ready if name in group), None) for group in (early, before, twice))
        return next((name for name in ranked if name is not None), ready[0] if ready else None)
