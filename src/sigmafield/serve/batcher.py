"""One network call for many runs: calls of several threads meet, are joined where they can be, and answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import Empty

import torch
from torch import Tensor

from sigmafield.models.diffusion_model import DiffusionModel, NetworkCall
from sigmafield.serve.admission import Costs
from sigmafield.serve.device_calls import DeviceCalls
from sigmafield.serve.figures import BatchFigures
from sigmafield.serve.joining import fits, key_of
from sigmafield.serve.turns import Turns
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

    On the CPU a joined call is made by the thread that asked last, so that no other has to be woken for it; on another
    device by one thread, which goes on to the next call when the device is done while the runs work on the answers.
    Between their calls the runs take turns, see `Turns`.

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
        self._here, self._turns = _Here(), Turns()
        self._closed: Exception | None = None
        self._busy, self._free_since, self._waits = False, 0.0, 0
        self._thread: threading.Thread | None = None

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
            here.inside = False
            with self._changed:
                self._present.discard(run)
                self._look_again()
            self._end_turn()

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
        """Ends the work, after the call that is being made; calls that wait, and later ones, raise RuntimeError."""
        self._end(RuntimeError("the server is stopping: the network takes no more calls"))
        if self._thread is not None:
            self._thread.join()

    def _end(self, error: Exception) -> None:
        with self._changed:
            self._closed = self._closed or error
            left, self._waiting = self._waiting, []
            self._changed.notify_all()
        for asked in left:
            asked.answer.put(error)

    def _call(self, call: NetworkCall) -> Tensor:
        """Hands a call over and waits for its answer; other runs take their turns meanwhile."""
        here, key, now = self._here, key_of(call, self.settings.exact), time.perf_counter()
        run = here.run if here.inside else None
        if here.turn is not None and not call.alone:
            self._costs.asked(key, call.x.shape[0], now - here.turn)
        asked = Asked(call, key, run, now, torch.is_grad_enabled())
        with self._changed:
            if self._closed is not None:
                raise self._closed
            if run is not None:
                run.called(key, asked.rows, now)
            self._waiting.append(asked)
        try:
            answer = self._answer(asked)
        except BaseException:  # the wait was interrupted
            self._give_up(asked)
            raise
        here.turn = time.perf_counter() if asked.has_turn else None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _end_turn(self) -> None:
        """Lets another run have its turn, if this thread has it."""
        if self._here.turn is not None:
            self._here.turn = None
            self._turns.end()

    def _answer(self, asked: Asked) -> Tensor | BaseException:
        """The answer to a call that waits, or its error; on the CPU this thread makes the calls that are due."""
        leads = asked.call.x.device.type == "cpu"
        if not leads:
            self._wake_thread()
        while True:
            group, seconds = self._next(asked) if leads else ([], None)
            self._end_turn()
            if group:
                self._make_now(group, asked)
                continue
            try:
                answer = asked.answer.get(timeout=seconds)
            except Empty:
                continue
            if answer is not None:
                return answer

    def _give_up(self, asked: Asked) -> None:
        """Forgets a call whose thread no longer waits."""
        with self._changed:
            if asked in self._waiting:
                self._waiting.remove(asked)
            self._look_again()
        self._turns.give_up(asked)

    def _wake_thread(self) -> None:
        """Lets the thread that makes calls look at what waits; it is started by the first call that needs it."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="sigmafield network", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            while self._closed is None:
                with self._changed:  # nothing changes between the look and the wait
                    group, seconds = self._next()
                    if not group and self._closed is None:
                        self._changed.wait(seconds)
                if group:
                    self._make_now(group)
        except Exception as error:
            self._end(error)
            raise

    def _next(self, asked: Asked | None = None) -> tuple[list[Asked], float | None]:
        """The calls to make now, or how many seconds to wait for others; None: until this thread is woken.

        Args:
            asked: The call for which this thread asks; None asks for all.
        """
        with self._changed:
            if self._busy or (asked is not None and asked not in self._waiting):
                return [], None
            now = time.perf_counter()
            choice = choose(self._waiting, self._present, now, self._free_since, self._device)
            if not choice.calls:
                return [], choice.seconds
            taken = self._taken(choice.calls)
            self._waiting = [asked for asked in self._waiting if asked not in taken]
            self._waits, self._busy = self._waits + choice.late, True
            return taken, None

    def _look_again(self) -> None:
        """Lets whoever makes calls look again at those that wait; the lock is held."""
        self._changed.notify_all()
        if self._waiting:
            self._waiting[0].answer.put(None)

    def _taken(self, calls: Sequence[Asked]) -> list[Asked]:
        """As many of the calls of a group as one network call has room for."""
        first, most = calls[0], self._device.most(calls[0])
        taken, n = [first], first.rows
        for asked in calls[1:]:
            if (most is None or n + asked.rows <= most) and fits(asked.call, [each.call for each in taken]):
                taken.append(asked)
                n += asked.rows
        return taken

    def _make_now(self, group: list[Asked], own: Asked | None = None) -> None:
        """Makes the calls of a group and answers them, that of this thread first; then others may be made."""
        try:
            # the same runs are joined in the same order in every step, so that their conditionings are joined once
            self._make(sorted(group, key=lambda asked: id(asked.run)), own)
            self._device.settle()
        finally:
            with self._changed:
                # where this thread was interrupted, the calls of others are made by another one
                self._waiting += [asked for asked in group if not asked.answered and asked is not own]
                self._busy, self._free_since = False, time.perf_counter()
                self._look_again()

    def _make(self, group: Sequence[Asked], own: Asked | None) -> None:
        """Makes the calls of a group and answers them; where a joined call fails, each is made alone."""
        try:
            answers = self._device.answers(group)
        except Exception as error:
            if len(group) > 1:
                for asked in group:
                    self._make([asked], own)
                return
            answers = [error]
        with self._changed:  # before the runs go on
            now = time.perf_counter()
            for asked in group:
                if asked.run is not None:
                    asked.run.answered(now)
        self._turns.answer(sorted(zip(group, answers), key=lambda answered: answered[0] is not own))
