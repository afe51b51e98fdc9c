"""What network calls cost, as measured: whether to wait for another run's rows, and whether another run pays."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

RECENT = 9
"""Measurements of one number of rows that are kept; the median of them counts."""

GAIN = 1.02
"""A run that adds less throughput than this factor does not pay."""

FADING = 0.99
"""What a call leaves of the time that was spent before it, when kinds of calls are compared."""

KINDS = 64
"""Kinds of calls that are remembered; when there are more, all are forgotten."""


@dataclass
class Kind:
    """What is known of one kind of call: one network at one shape.

    Args:
        seconds: Rows of a call → seconds that the last such calls took.
        each: Rows that one run asked for, of the last calls.
        gaps: Seconds that a run took between two calls.
        spent: Seconds in such calls, fading with every call.
    """

    seconds: dict[int, deque[float]] = field(default_factory=dict)
    each: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    spent: float = 0.0

    def cost(self, rows: int) -> float | None:
        """Seconds of a call: measured, or from those of fewer and of more rows; None: of more than was measured."""
        known = sorted((n, median(times)) for n, times in self.seconds.items())
        for n, seconds in known:
            if n == rows or rows < known[0][0]:
                return seconds
        for (a, low), (b, high) in pairwise(known):
            if a < rows < b:
                return low + (high - low) * (rows - a) / (b - a)
        return None

    def gains(self, runs: int, most: int | None) -> bool:
        """Whether one run more adds throughput, see `Costs.pays`."""
        if not self.each:
            return runs < 2
        each = round(sum(self.each) / len(self.each))
        if most is not None and (runs + 1) * each > max(most, each):
            return False
        now, then = self.cost(runs * each), self.cost((runs + 1) * each)
        if now is None or then is None:
            return now is not None
        gap = median(self.gaps) if self.gaps else 0.0
        return (runs + 1) / (then + (runs + 1) * gap) > GAIN * runs / (now + runs * gap)


class Costs:
    """Measured seconds of network calls by their rows, for each kind of call. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[Hashable, Kind] = {}

    def add(self, key: Hashable, rows: int, seconds: float) -> None:
        """Notes a network call of this many rows."""
        with self._lock:
            kind = self._kind(key)
            kind.seconds.setdefault(rows, deque(maxlen=RECENT)).append(seconds)
            for other in self._kinds.values():
                other.spent *= FADING
            kind.spent += seconds

    def asked(self, key: Hashable, rows: int, gap: float | None) -> None:
        """Notes that one run asked for this many rows, `gap` seconds after its last answer."""
        with self._lock:
            kind = self._kind(key)
            kind.each.append(rows)
            if gap is not None:
                kind.gaps.append(gap)

    def worth(self, key: Hashable, rows: int, more: int, together: int) -> float | None:
        """Seconds that one call saves against two, or those of the first where it is not measured; None: nothing is.

        Args:
            key: The kind of call.
            rows: Rows of the first call.
            more: Rows of the second.
            together: Rows of the one call.
        """
        with self._lock:
            kind = self._kind(key)
            one, other, both = kind.cost(rows), kind.cost(more), kind.cost(together)
        if one is None or other is None or both is None:
            return one
        return max(0.0, one + other - both)

    def pays(self, runs: int, most: int | None) -> bool:
        """Whether one run more than `runs` adds throughput, for the kind of call that took most of the time.

        With n runs of r rows each, a step of all of them takes T(n r) + n g seconds, g a run's own work between two
        calls. What was not tried yet is worth a try, one run more at a time.

        Args:
            runs: Runs that are stepped now.
            most: Most rows of one network call; None: no limit.
        """
        with self._lock:
            kind = max(self._kinds.values(), key=lambda kind: kind.spent, default=None)
            return runs < 1 or (runs < 2 if kind is None else kind.gains(runs, most))

    def _kind(self, key: Hashable) -> Kind:
        if key not in self._kinds and len(self._kinds) >= KINDS:
            self._kinds.clear()
        return self._kinds.setdefault(key, Kind())
