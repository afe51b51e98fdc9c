"""What network calls cost, as measured: whether to wait for another run's rows, and whether another run pays.

What else the machine does makes a call slower and never faster, so the shortest of the latest calls counts.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, linear_regression

RECENT = 25
"""Measurements of one number of rows that are kept."""

ENOUGH = 5
"""Measurements of one number of rows before they may say that another run does not pay."""

STALE = 200
"""Calls of a kind after which what was measured of more rows is forgotten, and worth a try again."""

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
        gaps: Seconds of a run's own work between two calls.
        spent: Seconds in such calls, fading with every call.
        calls: Number of such calls.
        last: Rows of a call → number of the last such call.
    """

    seconds: dict[int, deque[float]] = field(default_factory=dict)
    each: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    spent: float = 0.0
    calls: int = 0
    last: dict[int, int] = field(default_factory=dict)

    def add(self, rows: int, seconds: float) -> None:
        """Notes a call."""
        self.calls += 1
        self.last[rows] = self.calls
        for n in [n for n, call in self.last.items() if n > rows and self.calls - call > STALE]:
            del self.last[n], self.seconds[n]
        self.seconds.setdefault(rows, deque(maxlen=RECENT)).append(seconds)
        self.spent += seconds

    def cost(self, rows: int) -> float | None:
        """Seconds of a call: measured, or from those of fewer and of more rows; None: of more than was measured."""
        known = sorted((n, min(times)) for n, times in self.seconds.items())
        for n, seconds in known:
            if n == rows or rows < known[0][0]:
                return seconds
        for (a, low), (b, high) in pairwise(known):
            if a < rows < b:
                return low + (high - low) * (rows - a) / (b - a)
        return None

    def gains(self, runs: int, most: int | None) -> bool:
        """Whether one run more adds throughput, see `Costs.pays`."""
        if runs < 1 or not self.each:
            return runs < 2
        each = max(1, round(fmean(self.each)))
        rows = (runs + 1) * each
        if most is not None and rows > max(most, each):
            return False
        if rows > self.measured:
            return runs == 1 or (rows - each <= self.measured and self.gains(runs - 1, most))
        fixed, per_row = self.line(rows)
        gap = min(self.gaps, default=0.0)
        now, then = fixed + per_row * (rows - each), fixed + per_row * rows
        return (runs + 1) * (now + runs * gap) > GAIN * runs * (then + (runs + 1) * gap)

    @property
    def measured(self) -> int:
        """The largest number of rows that was measured often enough."""
        return max((n for n, times in self.seconds.items() if len(times) >= ENOUGH), default=0)

    def line(self, rows: int) -> tuple[float, float]:
        """(fixed seconds, seconds per row) of calls of up to this many rows, and not less than half as many.

        A line through all of these measurements, because the difference of two of them is mostly chance.
        """
        known = sorted((n, min(times)) for n, times in self.seconds.items() if len(times) >= ENOUGH)
        last = next(i for i, (n, _) in enumerate(known) if n >= rows)
        near = [point for point in known[: last + 1] if 2 * point[0] >= rows] or known[last : last + 1]
        numbers, seconds = zip(*near)
        slope = max(0.0, linear_regression(numbers, seconds).slope) if len(near) > 1 else 0.0
        slope = min(slope, fmean(seconds) / fmean(numbers))  # no fixed seconds at least
        return fmean(seconds) - slope * fmean(numbers), slope


class Costs:
    """Measured seconds of network calls by their rows, for each kind of call. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[Hashable, Kind] = {}

    def add(self, key: Hashable, rows: int, seconds: float) -> None:
        """Notes a network call of this many rows."""
        with self._lock:
            kind = self._kind(key)
            for other in self._kinds.values():
                other.spent *= FADING
            kind.add(rows, seconds)

    def asked(self, key: Hashable, rows: int, gap: float | None) -> None:
        """Notes that one run asked for this many rows, after `gap` seconds of work; None: that is not known."""
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

    def pays(self, runs: int, most: int | None, keys: Iterable[Hashable] = ()) -> bool:
        """Whether one run more than `runs` adds throughput, for the kind of call that took most of the time.

        With n runs of r rows each, a step of all of them takes T(n r) + n g seconds, g a run's own work between two
        calls, and T a line through what was measured of about this many rows. What was not tried often enough is worth
        a try, one run more at a time, if the last one more did pay.

        Args:
            runs: Runs that are stepped now.
            most: Most rows of one network call; None: no limit.
            keys: What the last calls of the runs had; runs whose calls are of another kind do not count. None has not
                called yet.
        """
        with self._lock:
            if not self._kinds:
                return runs < 2
            leading, kind = max(self._kinds.items(), key=lambda item: item[1].spent)
            others = sum(key not in (None, leading) for key in keys)
            return runs < 1 or kind.gains(max(1, runs - others), most)

    def _kind(self, key: Hashable) -> Kind:
        if key not in self._kinds and len(self._kinds) >= KINDS:
            self._kinds.clear()
        return self._kinds.setdefault(key, Kind())
