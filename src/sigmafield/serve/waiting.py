"""Which of the calls that wait are made next, and how long to wait for more of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from sigmafield.models.diffusion_model import NetworkCall

UNKNOWN = 0.02
"""Seconds that a run is waited for before it is known how long it takes between two calls."""


@dataclass(eq=False)
class Present:
    """A run that is being stepped.

    Args:
        priority: Calls of higher priority are made first.
        since: When it entered, or got its last answer.
        key: What its last call had; None before the first.
        gap: Usual seconds between an answer and the next call; None before the second call.
        waits: Whether it has asked and waits for the answer.
    """

    priority: int
    since: float
    key: Hashable = None
    gap: float | None = None
    waits: bool = False

    def called(self, key: Hashable, now: float) -> None:
        """Notes a call."""
        if self.key is not None:
            self.gap = now - self.since if self.gap is None else 0.75 * self.gap + 0.25 * (now - self.since)
        self.key, self.waits = key, True

    def answered(self, now: float) -> None:
        """Notes the answer."""
        self.since, self.waits = now, False


@dataclass(eq=False)
class Asked:
    """A call that waits.

    Args:
        call: The call.
        key: What the calls that it may be joined with have in common.
        run: Whose call it is; None for a thread that is not known to step a run.
        since: When it was made.
        grad: Whether gradients are recorded.
        answer: Where its thread waits for the answer.
    """

    call: NetworkCall
    key: Hashable
    run: Present | None
    since: float
    grad: bool
    answer: Future[Tensor] = field(default_factory=Future)

    @property
    def order(self) -> tuple[int, float]:
        """Sorts calls by priority, then by age."""
        return -(self.run.priority if self.run else 0), self.since


@dataclass(frozen=True)
class Choice:
    """What to do now.

    Args:
        calls: Calls of one key to make, the most urgent first; empty: wait.
        seconds: How long to wait; None: until something changes.
        late: Whether the calls are made without a run that was waited for.
    """

    calls: Sequence[Asked] = ()
    seconds: float | None = None
    late: bool = False


def choose(
    waiting: Sequence[Asked], present: Iterable[Present], now: float, free_since: float, window: float | None
) -> Choice:
    """Chooses the calls to make next.

    A group of calls of one key waits for every run that is present, has not asked, and whose last call had that key,
    or that has not called yet; each until it is overdue.

    Args:
        waiting: Calls that wait.
        present: Runs that are being stepped.
        now: The time in seconds.
        free_since: Since when no call is being made.
        window: Most seconds to wait for a run; None: a few of its usual gaps.
    """
    groups: dict[Hashable, list[Asked]] = {}
    for asked in sorted(waiting, key=lambda asked: asked.order):
        groups.setdefault(object() if asked.call.alone else asked.key, []).append(asked)
    absent, soonest = [run for run in present if not run.waits], None
    for calls in groups.values():
        key, began = calls[0].key, max(free_since, min(asked.since for asked in calls))
        expected = [run for run in absent if run.key in (None, key) and not calls[0].call.alone]
        due = [until(run, began, window) for run in expected]
        if not any(time > now for time in due):
            return Choice(calls, late=bool(due))
        soonest = min(soonest or max(due), max(due))
    return Choice(seconds=None if soonest is None else max(0.0, soonest - now))


def until(run: Present, began: float, window: float | None) -> float:
    """Until when a run is waited for, by calls that could be made since `began`."""
    if window is not None:
        return began + window
    return max(run.since, began if run.gap is None else 0.0) + (UNKNOWN if run.gap is None else 4 * run.gap + 0.005)
