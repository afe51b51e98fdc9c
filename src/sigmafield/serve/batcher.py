"""One network call for many runs: calls of several threads meet, are joined where they can be, and answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sigmafield.models.diffusion_model import DiffusionModel, NetworkCall
from sigmafield.serve.admission import Costs
from sigmafield.serve.device_calls import DeviceCalls
from sigmafield.serve.joining import fits, key_of
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
        calls: Network calls, except those that exact mode makes to compare their bits.
        rows: Rows that runs asked for.
        computed: Rows that were computed: those, what fills calls up in exact mode, and what it compares.
        by_rows: Rows asked for in one call → number of such calls.
        seconds: Time in network calls.
        waits: Calls that were made without a run that they had waited for.
        halvings: How often memory did not suffice, and the rows of a call were halved.
    """

    calls: int = 0
    rows: int = 0
    computed: int = 0
    by_rows: Mapping[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    waits: int = 0
    halvings: int = 0


class _Here(threading.local):
    """What a thread steps.

    Args:
        run: The run, or the last one.
        inside: Whether it is being stepped.
        turn: When its turn began; None while it does not have it.
    """

    run: Present | None = None
    inside = False
    turn: float | None = None


class Batcher:
    """Makes the network calls of many runs on one device, joined where they can be, one at a time.

    A thread of its own makes them; only that of a lone run on the CPU is made where it was asked for. Between their
    calls the runs take turns: threads that compute small tensors at the same time hand Python's lock to one another at
    every operation, which takes longer than the operations.

    A run is stepped by a thread of its own, on a model that `joined` gives, within `running`. A call waits until the
    runs that could join it have called as well, or until they are overdue.

        batcher = Batcher()
        pipe = replace(pipe, model=batcher.joined(pipe.model))
        with batcher.running():                      # in each run's thread
            execute(open_job(recipe, pipe))

    Args:
        settings: How calls are joined.
    """

    def __init__(self, settings: BatchSettings = BatchSettings()) -> None:
        self.settings = settings
        self._costs = Costs()
        self._exact = settings.rows if settings.exact else None
        self._device = DeviceCalls(self._costs, self._exact, settings.max_rows, settings.window)
        self._changed = threading.Condition()
        self._waiting: list[Asked] = []
        self._present: set[Present] = set()
        self._here = _Here()
        self._turn = threading.Lock()
        self._closed: Exception | None = None
        self._busy, self._free_since, self._waits = False, 0.0, 0
        self._thread = threading.Thread(target=self._work, name="sigmafield network", daemon=True)
        self._thread.start()

    def joined(self, model: DiffusionModel) -> DiffusionModel:
        """The model, with its network calls made by this batcher; several models may share one batcher."""
        return replace(model, caller=self._call)

    @contextmanager
    def running(self, priority: int = 0) -> Iterator[None]:
        """Says that this thread steps a run meanwhile, whose calls others wait for.

        What is known of the thread's habits is kept from one time to the next.

        Args:
            priority: Calls of higher priority are made first.
        """
        here, now = self._here, time.perf_counter()
        if here.inside:
            yield
            return
        run = (
            Present(priority, now) if here.run is None else replace(here.run, priority=priority, since=now, waits=False)
        )
        here.run, here.inside = run, True
        with self._changed:
            self._present.add(run)
        try:
            yield
        finally:
            self._end_turn()
            here.inside = False
            with self._changed:
                self._present.discard(run)
                self._changed.notify_all()

    def pays(self, runs: int) -> bool:
        """Whether one run more than `runs` would add throughput, by what network calls cost so far."""
        limits = (limit for limit in (self.settings.max_rows, self._exact) if limit is not None)
        with self._changed:
            keys = [run.key for run in self._present]
        return self._costs.pays(runs, min(limits, default=None), keys)

    def figures(self) -> BatchFigures:
        """What was done so far."""
        with self._changed:
            made, by = self._device, dict(sorted(self._device.by_rows.copy().items()))
            rows = sum(n * times for n, times in by.items())
            return BatchFigures(sum(by.values()), rows, made.computed, by, made.seconds, self._waits, made.halvings)

    def close(self) -> None:
        """Ends the thread, after the call that it is making; calls that wait, and later ones, raise RuntimeError."""
        self._end(RuntimeError("the server is stopping: the network takes no more calls"))
        self._thread.join()

    def _end(self, error: Exception) -> None:
        with self._changed:
            self._closed = self._closed or error
            left, self._waiting = self._waiting, []
            self._changed.notify_all()
        for asked in left:
            asked.answer.set_exception(error)

    def _call(self, call: NetworkCall) -> Tensor:
        """Hands a call over and waits for its answer; other runs take their turns meanwhile."""
        here, key = self._here, key_of(call, self.settings.exact)
        if not here.inside or here.run is None:
            return self._answer(call, key, None)
        gap = self._end_turn()
        if not call.alone:
            self._costs.asked(key, len(call.x), gap)
        try:
            return self._answer(call, key, here.run)
        finally:
            self._turn.acquire()
            here.turn = time.perf_counter()

    def _end_turn(self) -> float | None:
        """Lets another run have its turn; how many seconds it took, None where this thread did not have it."""
        began, self._here.turn = self._here.turn, None
        if began is None:
            return None
        self._turn.release()
        return time.perf_counter() - began

    def _answer(self, call: NetworkCall, key: Hashable, run: Present | None) -> Tensor:
        """The answer to a call of a run, or of a thread that is not known to step one."""
        with self._changed:
            if self._closed is not None:
                raise self._closed
            now = time.perf_counter()
            if run is not None:
                run.called(key, len(call.x), now)
            asked = Asked(call, key, run, now, torch.is_grad_enabled())
            at_once = not (self._busy or self._waiting or self._present - {run}) and call.x.device.type == "cpu"
            self._busy = self._busy or at_once
            if not at_once:
                self._waiting.append(asked)
                self._changed.notify_all()
        if at_once:  # nobody to wait for, and no other thread to be woken
            try:
                self._make([asked])
            finally:
                self._set_free()
        try:
            return asked.answer.result()
        finally:
            if not asked.answer.done():  # the wait was interrupted
                with self._changed:
                    if asked in self._waiting:
                        self._waiting.remove(asked)

    def _work(self) -> None:
        try:
            while (group := self._next()) is not None:
                self._make(group)
                self._device.settle()
                self._set_free()
        except Exception as error:
            self._end(error)
            raise

    def _next(self) -> list[Asked] | None:
        """The calls to make next, once there are some; None when the batcher is closed."""
        with self._changed:
            while self._closed is None:
                if self._busy:
                    self._changed.wait()
                    continue
                now = time.perf_counter()
                choice = choose(self._waiting, self._present, now, self._free_since, self._device)
                if choice.calls:
                    taken = self._taken(choice.calls)
                    self._waiting = [asked for asked in self._waiting if asked not in taken]
                    self._waits, self._busy = self._waits + choice.late, True
                    return taken
                self._changed.wait(choice.seconds)
            return None

    def _set_free(self) -> None:
        """Notes that no call is being made now."""
        with self._changed:
            self._busy, self._free_since = False, time.perf_counter()
            if self._waiting:
                self._changed.notify_all()

    def _taken(self, calls: Sequence[Asked]) -> list[Asked]:
        """As many of the calls of a group as one network call has room for."""
        first, most = calls[0], self._device.most(calls[0])
        taken, n = [first], len(first.call.x)
        for asked in calls[1:]:
            if (most is None or n + len(asked.call.x) <= most) and fits(asked.call, [each.call for each in taken]):
                taken.append(asked)
                n += len(asked.call.x)
        return taken

    def _make(self, group: Sequence[Asked]) -> None:
        """Makes the calls of a group and answers them; where a joined call fails, each is made alone."""
        try:
            answers = self._device.answers(group)
        except Exception as error:
            if len(group) == 1:
                self._go_on(group)
                group[0].answer.set_exception(error)
                return
        else:
            self._go_on(group)
            for asked, answer in zip(group, answers):
                asked.answer.set_result(answer)
            return
        for asked in group:
            self._make([asked])

    def _go_on(self, group: Sequence[Asked]) -> None:
        """Notes that the runs of these calls go on, before they do."""
        with self._changed:
            now = time.perf_counter()
            for asked in group:
                if asked.run is not None:
                    asked.run.answered(now)
