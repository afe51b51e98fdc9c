"""Asynchronous nodes: a thread with an event loop, which starts when the first of them does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait

import torch

from sigmafield.comfyui.context import Outcome

TICK = 0.05
"""Seconds between two looks at whether the run should stop."""


class Background:
    """Runs awaitables while other nodes run."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread: threading.Thread | None = None

    def start(self, made: Awaitable[Outcome]) -> Future[Outcome]:
        """Start an awaitable; its result, or its error, comes from the future."""
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            self.thread = threading.Thread(target=_run, args=(self.loop,), name="sigmafield nodes", daemon=True)
            self.thread.start()
        return asyncio.run_coroutine_threadsafe(_outcome(made), self.loop)

    def wait(self, futures: Iterable[Future[Outcome]]) -> None:
        """Wait a moment, or until one of them is done."""
        wait(list(futures), TICK, FIRST_COMPLETED)

    def close(self) -> None:
        """Cancel what has not ended and stop the thread."""
        if self.loop is not None and self.thread is not None:
            loop = self.loop
            loop.call_soon_threadsafe(loop.stop)
            self.thread.join()
            self.loop = self.thread = None


async def _outcome(made: Awaitable[Outcome]) -> Outcome:
    with torch.no_grad():
        return await made


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, then cancel its tasks."""
    asyncio.set_event_loop(loop)
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
