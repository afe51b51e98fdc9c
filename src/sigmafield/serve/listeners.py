"""Who is called after each event of a job."""

from __future__ import annotations

import threading
from collections.abc import Callable

Notify = Callable[[str], None]
"""A function of a job's id, called in the thread that recorded the event; it must return quickly."""


class Listeners:
    """Functions that are called after each event; any thread may add and remove them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: tuple[Notify, ...] = ()

    def add(self, notify: Notify) -> Callable[[], None]:
        """Call a function after each event, until the returned function is called."""
        with self._lock:
            self._all = (*self._all, notify)

        def end() -> None:
            with self._lock:
                self._all = tuple(each for each in self._all if each is not notify)

        return end

    def notify(self, id: str) -> None:
        """Call all functions with a job's id."""
        for each in self._all:
            each(id)
