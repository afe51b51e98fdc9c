"""Makes joined network calls on one device: within a number of rows, in halves where memory does not suffice, exact."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from sigmafield.models.module_view import compiled_part
from sigmafield.models.network_call import shares
from sigmafield.recipes.memory import is_out_of_memory, release
from sigmafield.serve.admission import Costs
from sigmafield.serve.exact import FixedRows
from sigmafield.serve.joining import Joined, Rows, join
from sigmafield.serve.waiting import Asked, Present

PATIENCE = 0.25
"""Share of the seconds to be saved within which a run is never overdue."""


JOINED = 4
"""Joined conditionings that are kept for the next calls."""


class DeviceCalls:
    """Makes the network calls of one device, one at a time. Any thread may read the figures.

    Args:
        costs: Where the seconds of calls are noted.
        exact: Rows of every call in exact mode; None: calls have the rows that are asked for.
        max_rows: Most rows of one network call; None: as many as memory allows.
        window: Most seconds that a call waits for those of other runs; None: by measurement.
    """

    def __init__(self, costs: Costs, exact: int | None, max_rows: int | None, window: float | None) -> None:
        self.by_rows: Counter[int] = Counter()
        self.computed, self.seconds, self.halvings = 0, 0.0, 0
        self._costs, self._max_rows, self._window = costs, max_rows, window
        self._exact, self._fixed = exact, FixedRows()
        self._joined = Joined(JOINED)
        self._limits: dict[Hashable, int] = {}
        self._timed: list[tuple[Asked, int, torch.cuda.Event, torch.cuda.Event]] = []

    def most(self, asked: Asked) -> int | None:
        """Most rows of one network call for calls like this one; None: no limit."""
        if self._exact is not None:
            return self._fixed.most(asked.key, self._full(asked))
        limits = (self._max_rows, asked.call.model.max_rows, self._limits.get(asked.key))
        return min((limit for limit in limits if limit is not None), default=None)

    def until(self, calls: Sequence[Asked], run: Present, began: float) -> float:
        """Until when calls wait for a run, which they have done since `began`.

        By measurement: while the run is not overdue, and while waiting costs less than one call for all would save. A
        run that takes less than a part of that is not overdue, whatever its habits: the machine may be busy.
        """
        if self._window is not None:
            return began + self._window
        first, rows = calls[0], sum(asked.rows for asked in calls)
        more = run.rows or first.rows
        worth = self._costs.worth(first.key, *(self._size(first, n) for n in (rows, more, rows + more)))
        return run.due if worth is None else min(max(run.due, run.since + PATIENCE * worth), began + worth)

    def _size(self, asked: Asked, rows: int) -> int:
        """Rows that are computed where this many are asked for."""
        return rows if self._exact is None else self._fixed.size(asked.key, rows, self._full(asked))

    def _full(self, asked: Asked) -> int:
        """Rows of a full call in exact mode."""
        limits = (self._exact, self._max_rows, asked.call.model.max_rows)
        return min(limit for limit in limits if limit is not None)

    def answers(self, group: Sequence[Asked]) -> list[Tensor]:
        """The answers to calls of one kind.

        Raises:
            MemoryError, RuntimeError: Memory does not suffice for one row, or for the rows of an exact call.
            Exception: What the network raises.
        """
        first, rows = group[0], join([Rows.of(asked.call) for asked in group], self._joined)
        if first.call.alone:
            self.by_rows[len(rows)] += 1
            return [self._network(first, rows)]
        out: list[Tensor] = []
        done = 0
        while done < len(rows):
            some = shares(len(rows) - done, self.most(first))[0]
            part = rows.part(slice(done, done + some.stop))
            if (answer := self._part(first, part)) is not None:
                out.append(answer)
                done += len(part)
        answer = out[0] if len(out) == 1 else torch.cat(out)
        return [answer] if len(group) == 1 else list(answer.split([asked.rows for asked in group]))

    def settle(self) -> None:
        """Waits until the device has made the calls, and notes their seconds."""
        timed, self._timed = self._timed, []
        for asked, rows, began, ended in timed:
            ended.synchronize()
            self._note(asked, rows, began.elapsed_time(ended) / 1e3)

    def _part(self, first: Asked, rows: Rows) -> Tensor | None:
        """The answer for rows, or None where memory does not suffice: from then on, fewer rows make one call."""
        network = partial(self._network, first)
        try:
            if self._exact is None:
                out = network(rows)
            else:
                module = first.call.module
                compare = module is None or compiled_part(module) is None  # each size would be compiled
                out = self._fixed.answer(first.key, network, rows, self._full(first), compare)
            self.by_rows[len(rows)] += 1
            return out
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(rows) == 1 or self._exact is not None:
                raise
        release()
        self.halvings += 1
        self._limits[first.key] = len(rows) // 2
        return None

    def _network(self, first: Asked, rows: Rows) -> Tensor:
        """One network call."""
        call = first.call if rows.x is first.call.x else replace(first.call, x=rows.x, t=rows.t, cond=rows.cond)
        self.computed += len(rows)
        with torch.set_grad_enabled(first.grad):
            if rows.x.is_cuda:
                with torch.cuda.device(rows.x.device):
                    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                    began.record()
                    out = call()
                    ended.record()
                self._timed.append((first, len(rows), began, ended))
                return out
            start = time.perf_counter()
            out = call()
        self._note(first, len(rows), time.perf_counter() - start)
        return out

    def _note(self, asked: Asked, rows: int, seconds: float) -> None:
        self.seconds += seconds
        if not asked.call.alone:
            self._costs.add(asked.key, rows, seconds)
