"""Turns of the runs that share a device: between their calls they work one after another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from torch import Tensor

from sigmafield.serve.waiting import Asked

Answer = tuple[Asked, Tensor | BaseException]
"""A call, and the network's answer to it or the error to raise in its thread."""


class Turns:
    """Hands answers to waiting runs, one at a time: the next run gets its answer when this one calls again.

    Threads that compute small tensors at the same time hand Python's lock to one another at every operation, which
    takes longer than the operations. So each thread sleeps until all that it needs is its own. A thread that does not
    step a run gets its answer at once, and has no turn; so does one that holds a lock of its module, for which the run
    that has the turn may wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: deque[Answer] = deque()
        self._taken = False

    def answer(self, answers: Iterable[Answer]) -> None:
        """Gives these answers to their runs in this order, after the runs that are in line already."""
        with self._lock:
            for asked, answer in answers:
                asked.answered = True
                if asked.run is None or asked.call.locked:
                    asked.answer.put(answer)
                else:
                    self._line.append((asked, answer))
            if not self._taken:
                self._pass_on()

    def end(self) -> None:
        """Ends the turn of the run that has it; the next one in line goes on."""
        with self._lock:
            self._pass_on()

    def give_up(self, asked: Asked) -> None:
        """Ends or cancels the turn of a call whose thread no longer waits for it."""
        with self._lock:
            asked.given_up = True
            if asked.has_turn:
                self._pass_on()

    def _pass_on(self) -> None:
        while self._line:
            asked, answer = self._line.popleft()
            if not asked.given_up:
                self._taken = asked.has_turn = True
                asked.answer.put(answer)
                return
        self._taken = False
