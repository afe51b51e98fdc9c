"""One network call for many runs: calls of several threads meet, are joined where they can be, and answered."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sigmafield.models.diffusion_model import DiffusionModel, NetworkCall
from sigmafield.models.network_call import shares
from sigmafield.recipes.memory import is_out_of_memory, release
from sigmafield.serve.joining import Rows, fits, join, key_of
from sigmafield.serve.waiting import Asked, Present, choose


@dataclass(frozen=True)
class BatchSettings:
    """How calls are joined.

    Args:
        exact: Compute every call with `rows` rows, so that a result does not depend on what runs at the same time.
        rows: Rows of every network call in exact mode.
        max_rows: Most rows of one network call; None: as many as memory allows.
        window: Most seconds that a call waits for those of other runs; None: by measurement.

    Raises:
        ValueError: A number is out of its range.
    """

    exact: bool = False
    rows: int = 8
    max_rows: int | None = None
    window: float | None = None

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1; got {self.rows}")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, or None for no limit; got {self.max_rows}")
        if self.window is not None and not 0 <= self.window < float("inf"):
            raise ValueError(f"window must be seconds from 0, or None for a measured one; got {self.window}")


@dataclass(frozen=True)
class BatchFigures:
    """What a batcher has done so far.

    Args:
        calls: Network calls.
        rows: Rows of them that were asked for; in exact mode there are others, which fill a call up.
        by_rows: Rows asked for in one call → number of such calls.
        seconds: Time in network calls.
        waits: Calls that were made without a run that was waited for in vain.
        halvings: How often memory did not suffice, and the rows of a call were halved.
    """

    calls: int = 0
    rows: int = 0
    by_rows: Mapping[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    waits: int = 0
    halvings: int = 0


class Batcher:
    """Makes the network calls of many runs on one device, joined where they can be, in one thread of its own.

    A run is stepped by a thread of its own, on a model that `joined` gives, within `running`. A call waits until the
    runs that could join it have called as well, or until they are overdue.

        batcher = Batcher(BatchSettings())
        pipe = replace(pipe, model=batcher.joined(pipe.model))
        with batcher.running():                      # in each run's thread
            execute(open_job(recipe, pipe))

    Args:
        settings: How calls are joined.
    """

    def __init__(self, settings: BatchSettings = BatchSettings()) -> None:
        self.settings = settings
        self._changed = threading.Condition()
        self._waiting: list[Asked] = []
        self._present: dict[int, Present] = {}
        self._closed = False
        self._free_since = time.perf_counter()
        self._limits: dict[Hashable, int] = {}
        self._by_rows: Counter[int] = Counter()
        self._seconds, self._waits, self._halvings = 0.0, 0, 0
        self._thread = threading.Thread(target=self._work, name="sigmafield network", daemon=True)
        self._thread.start()

    def joined(self, model: DiffusionModel) -> DiffusionModel:
        """The model, with its network calls made by this batcher; several models may share one batcher."""
        return replace(model, caller=self._call)

    @contextmanager
    def running(self, priority: int = 0) -> Iterator[None]:
        """Says that this thread steps a run meanwhile, whose calls others wait for.

        Args:
            priority: Calls of higher priority are made first.
        """
        me = threading.get_ident()
        if me in self._present:
            yield
            return
        with self._changed:
            self._present[me] = Present(priority, time.perf_counter())
        try:
            yield
        finally:
            with self._changed:
                del self._present[me]
                self._changed.notify_all()

    def figures(self) -> BatchFigures:
        """What was done so far."""
        with self._changed:
            by = dict(sorted(self._by_rows.items()))
            rows = sum(n * times for n, times in by.items())
            return BatchFigures(sum(by.values()), rows, by, self._seconds, self._waits, self._halvings)

    def close(self) -> None:
        """Ends the thread; calls that wait, and later ones, raise RuntimeError."""
        with self._changed:
            self._closed = True
            left, self._waiting = self._waiting, []
            self._changed.notify_all()
        for asked in left:
            asked.answer.set_exception(RuntimeError("the server is stopping: the network takes no more calls"))
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _call(self, call: NetworkCall) -> Tensor:
        """Hands a call over and waits for its answer."""
        key = key_of(call, self.settings.exact)
        with self._changed:
            if self._closed:
                raise RuntimeError("the server is stopping: the network takes no more calls")
            now = time.perf_counter()
            run = self._present.get(threading.get_ident())
            if run is not None:
                run.called(key, now)
            asked = Asked(call, key, run, now, torch.is_grad_enabled())
            self._waiting.append(asked)
            self._changed.notify_all()
        try:
            return asked.answer.result()
        finally:
            with self._changed:
                if asked in self._waiting:  # the wait was interrupted
                    self._waiting.remove(asked)

    def _work(self) -> None:
        while (group := self._next()) is not None:
            self._make(group)
            self._free_since = time.perf_counter()

    def _next(self) -> list[Asked] | None:
        """The calls to make next, once there are some; None when the batcher is closed."""
        with self._changed:
            while not self._closed:
                now = time.perf_counter()
                choice = choose(self._waiting, self._present.values(), now, self._free_since, self.settings.window)
                if choice.calls:
                    taken = self._taken(choice.calls)
                    self._waiting = [asked for asked in self._waiting if asked not in taken]
                    self._waits += choice.late
                    return taken
                self._changed.wait(choice.seconds)
            return None

    def _taken(self, calls: Sequence[Asked]) -> list[Asked]:
        """As many of the calls of a group as one network call has room for."""
        first, most = calls[0], self._most(calls[0])
        taken, n = [first], len(first.call.x)
        for asked in calls[1:]:
            if (most is None or n + len(asked.call.x) <= most) and fits(asked.call, [a.call for a in taken]):
                taken.append(asked)
                n += len(asked.call.x)
        return taken

    def _most(self, asked: Asked) -> int | None:
        """Most rows of one network call for calls like this one."""
        limits = (self.settings.max_rows, asked.call.model.max_rows, self._limits.get(asked.key))
        exact = self.settings.rows if self.settings.exact else None
        return min((limit for limit in (*limits, exact) if limit is not None), default=None)

    def _make(self, group: Sequence[Asked]) -> None:
        """Makes the calls of a group and answers them; where a joined call fails, each is made alone."""
        try:
            answers = self._answers(group)
            self._answered(group)
        except BaseException as error:
            if len(group) == 1:
                self._answered(group)
                group[0].answer.set_exception(error)
                return
        else:
            for asked, answer in zip(group, answers):
                asked.answer.set_result(answer)
            return
        for asked in group:
            self._make([asked])

    def _answered(self, group: Sequence[Asked]) -> None:
        """Notes that the runs of these calls go on, before they do."""
        with self._changed:
            for asked in group:
                if asked.run is not None:
                    asked.run.answered(time.perf_counter())

    def _answers(self, group: Sequence[Asked]) -> list[Tensor]:
        first, rows = group[0], join([Rows.of(asked.call) for asked in group])
        if first.call.alone:
            return [self._network(first, rows)]
        out = [self._part(first, rows.part(some)) for some in shares(len(rows), self._most(first))]
        return list((out[0] if len(out) == 1 else torch.cat(out)).split([len(asked.call.x) for asked in group]))

    def _part(self, first: Asked, rows: Rows) -> Tensor:
        """The answer for rows, in one network call or, where memory does not suffice, in halves."""
        if self.settings.exact:
            most = self._most(first)
            assert most is not None
            return self._network(first, rows.padded(most), len(rows))[: len(rows)]
        try:
            return self._network(first, rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(rows) == 1:
                raise
        release()
        half = len(rows) // 2
        with self._changed:
            self._halvings += 1
            self._limits[first.key] = half
        return torch.cat([self._part(first, rows.part(some)) for some in shares(len(rows), half)])

    def _network(self, first: Asked, rows: Rows, asked: int | None = None) -> Tensor:
        """One network call."""
        began = time.perf_counter()
        call = replace(first.call, x=rows.x, t=rows.t, cond=rows.cond)
        with torch.set_grad_enabled(first.grad), torch.cuda.device(rows.x.device) if rows.x.is_cuda else nullcontext():
            out = call()
        with self._changed:
            self._by_rows[asked or len(rows)] += 1
            self._seconds += time.perf_counter() - began
        return out
