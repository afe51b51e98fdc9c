"""Wakes the requests that wait for something to happen to a job."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from sigmafield.serve.engine import Engine
from sigmafield.serve.jobs import FINISHED, JobRecord

REMEMBERED = 1000
"""Jobs of which it is remembered that they have ended: a notification may come after that of the end."""


class Watch:
    """What has happened since it was last asked.

    Args:
        job: The job; None watches all.
    """

    def __init__(self, job: str | None):
        self.job = job
        self._changed: set[str] = set()
        self._woken = asyncio.Event()

    def wake(self, job: str) -> None:
        """Note that something has happened to a job; "" ends the wait without one."""
        if job:
            self._changed.add(job)
        self._woken.set()

    async def changed(self, seconds: float) -> set[str]:
        """The jobs to which something has happened; waits for one, but not longer than this."""
        try:
            await asyncio.wait_for(self._woken.wait(), seconds)
        except asyncio.TimeoutError:
            return set()
        self._woken.clear()
        changed, self._changed = self._changed, set()
        return changed


class Feed:
    """Passes the engine's notifications, which come from any thread, to the requests that wait for them.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine):
        self.closing = False
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._watches: set[Watch] = set()
        self._end = engine.listen(self._notified)

    @contextmanager
    def watch(self, job: str | None = None) -> Iterator[Watch]:
        """Watch a job, or all, from now on."""
        watch = Watch(job)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    async def ended(self) -> AsyncIterator[JobRecord]:
        """The jobs that end from now on, each once."""
        told: deque[str] = deque(maxlen=REMEMBERED)
        with self.watch() as watch:
            while not self.closing:
                for job in await watch.changed(60.0):
                    try:
                        events = await asyncio.to_thread(self._engine.events, job)
                        if events[-1].kind in FINISHED and job not in told:
                            told.append(job)
                            yield await asyncio.to_thread(self._engine.get, job)
                    except LookupError:  # deleted
                        continue

    def close(self) -> None:
        """End all waiting."""
        self.closing = True
        self._end()
        self._wake("")

    def _notified(self, job: str) -> None:
        self._loop.call_soon_threadsafe(self._wake, job)

    def _wake(self, job: str) -> None:
        for watch in self._watches:
            if not job or watch.job in (None, job):
                watch.wake(job)
