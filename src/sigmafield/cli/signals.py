"""Ctrl-C, a polite kill and a closed terminal, as one exception that is raised once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

KINDS = [kind for kind in signal.Signals if kind.name in ("SIGINT", "SIGTERM", "SIGHUP")]
"""The signals that end a run with a checkpoint; Windows has no SIGHUP."""

Handler = signal.Handlers | Callable[[int, FrameType | None], None]
"""What a signal does."""


class Interrupted(BaseException):
    """A signal has asked the program to end; not a KeyboardInterrupt, which libraries turn into a status of their own.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int):
        super().__init__(f"signal {number}")
        self.number = number

    @property
    def status(self) -> int:
        """The program's status: 130 after Ctrl-C, 143 after a kill, 129 after a closed terminal."""
        return 128 + self.number


class Signals:
    """Raises `Interrupted` at the first signal; later ones change nothing, so that a checkpoint can be written.

    Signals that the program's parent had ignored, as nohup does, stay ignored.
    """

    def __init__(self) -> None:
        self._first = 0
        self._held = False

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Signals are raised inside of this context."""
        with _handled(self._note):
            yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal inside of this context is raised at its end, so that files are written without a break."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.check()

    def check(self) -> None:
        """Raise what came while signals were held and an error ended that."""
        if self._first:
            raise Interrupted(self._first)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._first:
            return
        self._first = number
        if not self._held:
            raise Interrupted(number)


@contextmanager
def abrupt() -> Iterator[None]:
    """Signals end the program at once, as long as there is nothing to save: while packages and models are loaded."""
    with _handled(signal.SIG_DFL):
        yield


@contextmanager
def _handled(handler: Handler) -> Iterator[None]:
    """Signals are handled in another way, except those that are ignored; outside of the main thread nothing changes."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {kind: signal.getsignal(kind) for kind in KINDS}
        before = {kind: old for kind, old in before.items() if old not in (signal.SIG_IGN, None)}
    for kind in before:
        signal.signal(kind, handler)
    try:
        yield
    finally:
        for kind, old in before.items():
            signal.signal(kind, old)
