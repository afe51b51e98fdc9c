"""Which of the calls that wait are made next, and how long to wait for more of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol, runtime_checkable

from torch import Tensor

from sigmafield.models.diffusion_model import NetworkCall

UNKNOWN = 0.05
"""Seconds that a run is waited for before it is known how long it takes between two calls."""

GAPS, SLACK = 4.0, 0.005
"""A run is overdue after this many of its usual gaps and this many seconds."""


@dataclass(eq=False)
class Present:
    """A run that is being stepped.

    Args:
        priority: Calls of higher priority are made first.
        since: When it entered, or got its last answer.
        key: What its last call had; None before the first.
        rows: Rows of its last call.
        gap: Usual seconds between an answer and the next call; None before the second call.
        waits: Whether it has asked and waits for the answer.
    """

    priority: int
    since: float
    key: Hashable = None
    rows: int = 0
    gap: float | None = None
    waits: bool = False

    def called(self, key: Hashable, rows: int, now: float) -> None:
        """Notes a call."""
        if self.key is not None:
            self.gap = now - self.since if self.gap is None else 0.75 * self.gap + 0.25 * (now - self.since)
        self.key, self.rows, self.waits = key, rows, True

    def answered(self, now: float) -> None:
        """Notes the answer."""
        self.since, self.waits = now, False

    @property
    def due(self) -> float:
        """When it is overdue."""
        return self.since + (UNKNOWN if self.gap is None else GAPS * self.gap + SLACK)


@dataclass(eq=False)
class Asked:
    """A call that waits.

    Args:
        call: The call.
        key: What the calls that it may be joined with have in common.
        run: Whose call it is; None for a thread that is not known to step a run.
        since: When it was made.
        grad: Whether gradients are recorded.
        answer: Where its thread waits: for the answer, for an error to raise, or for None, to look what is to be done.
        answered: Whether the call has been made.
        has_turn: Whether the answer was handed to its thread, which works since then.
        given_up: Whether the thread no longer waits.
        rows: Rows of the call.
    """

    call: NetworkCall
    key: Hashable
    run: Present | None
    since: float
    grad: bool
    answer: SimpleQueue[Tensor | BaseException | None] = field(default_factory=SimpleQueue)
    answered: bool = False
    has_turn: bool = False
    given_up: bool = False
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows = self.call.x.shape[0]

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


@runtime_checkable
class Rules(Protocol):
    """What a choice depends on, apart from who waits."""

    def most(self, asked: Asked, /) -> int | None:
        """Most rows of one network call for calls like this one; None: no limit."""
        ...

    def until(self, calls: Sequence[Asked], run: Present, began: float, /) -> float:
        """Until when calls wait for a run, which they have done since `began`."""
        ...


def choose(waiting: Sequence[Asked], present: Iterable[Present], now: float, free_since: float, rules: Rules) -> Choice:
    """Chooses the calls to make next.

    Calls of one key are a group, the one with the most urgent call first. A group that does not fill a network call
    waits for every run that has not asked and whose last call had that key, or that has not called yet.

    Args:
        waiting: Calls that wait.
        present: Runs that are being stepped.
        now: The time in seconds.
        free_since: Since when no call is being made.
        rules: How many rows a network call has room for, and how long a group waits.
    """
    groups: dict[Hashable, list[Asked]] = {}
    for asked in sorted(waiting, key=lambda asked: asked.order):
        groups.setdefault(id(asked) if asked.call.alone else asked.key, []).append(asked)
    absent, ends = [run for run in present if not run.waits], list[float]()
    for calls in groups.values():
        first, began = calls[0], max(free_since, min(asked.since for asked in calls))
        most, rows = rules.most(first), sum(asked.rows for asked in calls)
        full = first.call.alone or (most is not None and rows >= most)
        due = [] if full else [rules.until(calls, run, began) for run in absent if run.key in (None, first.key)]
        if all(end <= now for end in due):
            return Choice(calls, late=any(end > began for end in due))
        ends.append(max(due))
    return Choice(seconds=min(ends) - now if ends else None)
