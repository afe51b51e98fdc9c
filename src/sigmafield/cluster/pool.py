"""Many items worked on by a cluster: unordered results, and what a dead worker held goes to another one."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from time import monotonic
from types import ModuleType
from typing import Any, Generic, TypeVar

from sigmafield.cluster.joined import LOCAL, Room, joined

Item = TypeVar("Item")
Value = TypeVar("Value")

Work = Callable[[Item, "bytes | None"], Iterator["tuple[Value, bytes | None]"]]
"""What a worker does with an item and the bytes that were saved last, None at first: it yields values, each with bytes
to go on from after a crash, or None where the last ones still do. The last value is the result. Sent to each worker
once, so that what it keeps, such as a model, serves all of the items there."""

DEATHS = 3
"""Workers that one item may take with it, or that may fail to start one after the other."""

PATIENCE = 30.0
"""Seconds without any worker after which that is said."""


@dataclass(frozen=True)
class Report(Generic[Item, Value]):
    """News of an item.

    Args:
        item: The item.
        value: The last value that the work gave; None before the first one.
        saved: What another worker would go on from, where that came with this value.
        ended: Whether the item is finished: `value` is the result then, unless there is an error.
        error: What the work raised, or an OSError where the item has taken several workers with it.
        died: Whether its worker has died; another one begins with what was saved last.
    """

    item: Item
    value: Value | None = None
    saved: bytes | None = None
    ended: bool = False
    error: Exception | None = None
    died: bool = False


def each(
    work: Work[Item, Value], items: Iterable[Item], address: str = LOCAL, gpu: bool | None = None
) -> Generator[Report[Item, Value], None, None]:
    """Do work on items with the workers of a cluster, one for each GPU or CPU of it, and report it as it comes.

    Workers that join later are used as well. What a dead worker held begins with what was saved last, elsewhere. The
    cluster is left, and all workers are ended, when the iterator is closed.

    Args:
        work: What a worker does; an instance of an importable class, or an importable function.
        items: They are taken one by one, as workers become free.
        address: See `joined`.
        gpu: Whether a worker takes a GPU, or else a CPU; None: a GPU if the cluster has one.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: No cluster answers at the address.
        OSError: Workers cannot be started, or have another version of sigmafield.
    """
    with joined(address) as ray:
        has_gpu = ray.cluster_resources().get("GPU", 0) >= 1
        pool = _Pool(ray, work, iter(items), Room(has_gpu if gpu is None else gpu))
        try:
            yield from pool.reports()
        finally:
            pool.end()


class Worker:
    """A process of the cluster that does the work; made there.

    Args:
        work: See `Work`.
    """

    def __init__(self, work: Work[Any, Any]):
        self._work = work
        self._going: Iterator[tuple[Any, bytes | None]] = iter(())

    def version(self) -> str:
        """The version of sigmafield here."""
        return version("sigmafield")

    def take(self, item: Any, saved: bytes | None) -> tuple[Any, bytes | None] | None:
        """Begin with an item: the first value."""
        self._going = self._work(item, saved)
        return self.more()

    def more(self) -> tuple[Any, bytes | None] | None:
        """The next value of the item and what can be gone on from; None at its end."""
        return next(self._going, None)


@dataclass
class _Held(Generic[Item, Value]):
    """An item that is not finished, with what is known of it."""

    item: Item
    value: Value | None = None
    saved: bytes | None = None
    deaths: int = 0

    def ended(self, error: Exception | None = None) -> Report[Item, Value]:
        return Report(self.item, self.value, ended=True, error=error)


@dataclass
class _Pool(Generic[Item, Value]):
    """Workers, the one call that each of them is busy with, and the items that wait for one."""

    ray: ModuleType
    work: Work[Item, Value]
    items: Iterator[Item]
    room: Room
    calls: dict[Any, tuple[Any, _Held[Item, Value] | None]] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)
    waiting: deque[_Held[Item, Value]] = field(default_factory=deque)
    failures: int = 0

    def reports(self) -> Iterator[Report[Item, Value]]:
        """What happens, until every item is finished."""
        busy = monotonic()
        self._assign()
        while self.waiting or any(held for _, held in self.calls.values()):
            ready, _ = self.ray.wait(list(self.calls), timeout=1.0)
            for call in ready:
                worker, held = self.calls.pop(call)
                yield from self._started(call, worker) if held is None else self._answered(call, worker, held)
            if any(held for _, held in self.calls.values()):
                busy = monotonic()
            elif monotonic() - busy > PATIENCE:
                warnings.warn(
                    f"no worker has started yet: the cluster has no {self.room.resource} that is free", stacklevel=2
                )
            self._assign()

    def end(self) -> None:
        """End all workers."""
        for worker in [*self.idle, *(worker for worker, _ in self.calls.values())]:
            self.ray.kill(worker)

    def _assign(self) -> None:
        """Give items to the workers that are free, and start a worker for each item that waits, as far as they fit."""
        while self.idle and self._pulled(1):
            worker, held = self.idle.pop(), self.waiting.popleft()
            self.calls[worker.take.remote(held.item, held.saved)] = worker, held
        starting = sum(held is None for _, held in self.calls.values())
        room = int(self.ray.cluster_resources().get(self.room.resource, 0))
        while len(self.calls) < room and self._pulled(starting + 1):
            worker = self.ray.remote(Worker).options(**self.room.options()).remote(self.work)
            self.calls[worker.version.remote()] = worker, None
            starting += 1

    def _pulled(self, wanted: int) -> bool:
        """Whether this many items wait, after taking what is missing."""
        while len(self.waiting) < wanted:
            try:
                self.waiting.append(_Held(next(self.items)))
            except StopIteration:
                return False
        return True

    def _started(self, call: Any, worker: Any) -> Iterator[Report[Item, Value]]:
        """A worker has started, or failed to."""
        yield from ()
        try:
            theirs = self.ray.get(call)
        except self.ray.exceptions.RayError as error:
            self.failures += 1
            if self.failures == DEATHS:
                raise OSError(f"workers of the cluster fail to start: {_last_line(error)}") from None
            return
        if theirs != (ours := version("sigmafield")):
            raise OSError(f"a worker of the cluster has sigmafield {theirs}, and here it is {ours}: install the same")
        self.failures = 0
        self.idle.append(worker)

    def _answered(self, call: Any, worker: Any, held: _Held[Item, Value]) -> Iterator[Report[Item, Value]]:
        """A worker has a value, is at the end of its item, has raised an error, or is dead."""
        try:
            news = self.ray.get(call)
        except self.ray.exceptions.RayTaskError as error:
            self.idle.append(worker)
            yield held.ended(error.cause if isinstance(error.cause, Exception) else error)
            return
        except self.ray.exceptions.RayError as error:
            self.ray.kill(worker)  # where only its answer is lost
            held.deaths += 1
            if held.deaths == DEATHS:
                said = f"{DEATHS} workers died while they worked on it: {_last_line(error)}"
                yield held.ended(OSError(said))
            else:
                self.waiting.appendleft(held)
                yield Report(held.item, held.value, died=True)
            return
        if news is None:
            self.idle.append(worker)
            yield held.ended()
            return
        held.value, saved = news
        held.saved = held.saved if saved is None else saved
        self.calls[worker.more.remote()] = worker, held
        yield Report(held.item, held.value, saved)


def _last_line(error: Exception) -> str:
    """The last line of an error's text, where Ray puts the reason."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
