"""When to wait for another run, and whether another run pays: by measured seconds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

import sigmafield as sf
from sigmafield.core.conditioning import Cond
from sigmafield.models.diffusion_model import NetworkCall
from sigmafield.serve.admission import ENOUGH, Costs
from sigmafield.serve.batcher import BatchSettings
from sigmafield.serve.device_calls import DeviceCalls
from sigmafield.serve.waiting import GAPS, SLACK, UNKNOWN, Asked, Present, choose


def costs(each: int = 2, gap: float = 0.0, times: int = ENOUGH, **seconds: float) -> Costs:
    """Measurements: rows2=0.1 are calls of 2 rows in 0.1 s, by runs that ask for `each` rows."""
    made = Costs()
    made.asked("kind", each, gap)
    for name, value in seconds.items():
        for _ in range(times):
            made.add("kind", int(name.removeprefix("rows")), value)
    return made


@pytest.mark.parametrize(
    "made, runs, want",
    [
        (Costs(), 0, True),
        (Costs(), 1, True),
        (Costs(), 2, False),  # nothing is known yet: no more than two
        (costs(rows2=0.1), 1, True),  # what was not tried yet
        (costs(rows2=0.1), 2, False),  # before the second has been measured
        (costs(rows2=0.1, rows4=0.1), 2, True),
        (costs(rows2=0.1, rows4=0.1), 1, True),
        (costs(rows2=0.1, rows4=0.2), 1, False),  # twice the rows in twice the time
        (costs(rows2=0.1, rows4=0.2, times=ENOUGH - 1), 1, True),  # too few calls to say so
        (costs(rows2=0.1, rows4=0.19), 1, True),
        (costs(rows2=0.1, rows4=0.12, rows6=0.2), 2, False),
        (costs(rows2=0.1, rows4=0.19, gap=1.0), 1, False),  # the runs' own work takes most of the time
        (costs(rows2=0.1, rows8=0.1), 2, True),  # between two that were measured
    ],
)
def test_a_run_more_is_admitted_while_throughput_grows(made: Costs, runs: int, want: bool) -> None:
    assert made.pays(runs, None) is want


def test_a_run_for_which_a_call_has_no_room_does_not_pay() -> None:
    made = costs(rows2=0.1, rows4=0.1, rows6=0.1)
    assert made.pays(2, 6) and not made.pays(2, 5) and not made.pays(3, 6)


def runs_admitted(fixed: float, each_row: float, noise: float, seed: int) -> float:
    """Mean runs at a time of a server with jobs that wait, where calls take fixed + each_row · rows or longer."""
    draw, made, runs, seen = random.Random(seed), Costs(), 1, list[int]()
    for _ in range(700):
        while runs < 16 and made.pays(runs, None):
            runs += 1
        made.asked("kind", 2, 0.002 * (1 + noise * draw.expovariate(1)))
        made.add("kind", 2 * runs, (fixed + each_row * 2 * runs) * (1 + noise * draw.expovariate(1)))
        seen.append(runs)
        if draw.random() < 0.1:  # one ends
            runs = max(1, runs - 1)
    return sum(seen[300:]) / len(seen[300:])


@pytest.mark.parametrize("fixed, each_row", [(0.02, 0.0), (0.02, 0.002), (0.02, 0.01), (0.0, 0.02)])
def test_what_else_the_machine_does_hardly_changes_how_many_runs_are_admitted(fixed: float, each_row: float) -> None:
    """The quiet machine admits as many as pay; a loaded one has calls of twice the time and more."""
    quiet = runs_admitted(fixed, each_row, 0.0, 0)
    assert (quiet > 15) == (each_row == 0.0) and (quiet < 2.1) == (fixed == 0.0)
    noisy = [runs_admitted(fixed, each_row, 0.5, seed) for seed in range(4)]
    assert max(noisy) <= 1.5 * quiet + 2 and min(noisy) >= 0.5 * quiet, noisy


def test_the_kind_of_call_that_takes_the_time_decides() -> None:
    """And an earlier one fades."""
    made = costs(rows2=0.1, rows4=0.2)
    made.asked("other", 2, 0.0)
    for _ in range(300):
        made.add("other", 2, 0.01)
        made.add("other", 4, 0.01)
    assert made.pays(1, None)


def test_waiting_is_worth_what_one_call_saves() -> None:
    made = costs(rows2=0.1, rows4=0.15, rows6=0.3)
    assert made.worth("kind", 2, 2, 4) == pytest.approx(0.05)
    assert made.worth("kind", 2, 4, 6) == 0.0
    assert made.worth("kind", 2, 8, 10) == pytest.approx(0.1)  # not measured: at most the first call
    assert made.worth("other", 2, 2, 4) is None


@dataclass
class Rules:
    """Limits of a test."""

    room: int | None = None
    patience: float = 1.0

    def most(self, asked: Asked) -> int | None:
        return self.room

    def until(self, calls: Sequence[Asked], run: Present, began: float) -> float:
        return began + self.patience


def asked(run: Present | None, since: float, key: str = "a", rows: int = 2, alone: bool = False) -> Asked:
    model = sf.load("tiny", device="cpu").model
    x = torch.zeros(rows, 4, 8, 8)
    if run is not None:
        run.called(key, rows, since)
    return Asked(
        NetworkCall(model, None, x, torch.zeros(rows), Cond(torch.zeros(rows, 4, 8)), alone), key, run, since, False
    )


def test_a_group_waits_for_the_runs_that_could_join_it() -> None:
    first, second, other = (Present(0, 0.0) for _ in range(3))
    other.called("b", 2, 0.0)
    other.answered(0.0)
    one = asked(first, 0.5)
    choice = choose([one], [first, second, other], 0.6, 0.0, Rules())
    assert not choice.calls and choice.seconds == pytest.approx(0.9)  # the second has not called yet
    late = choose([one], [first, second, other], 1.6, 0.0, Rules())
    assert late.calls == [one] and late.late
    second.called("b", 2, 0.7)
    ready = choose([one, asked(second, 0.7, "b")], [first, second, other], 0.8, 0.0, Rules())
    assert ready.calls == [one] and not ready.late  # the others make calls of another kind


def test_a_full_call_a_patched_one_and_the_last_one_wait_for_nobody() -> None:
    first, second = Present(0, 0.0), Present(0, 0.0)
    one = asked(first, 0.5)
    assert choose([one], [first, second], 0.5, 0.0, Rules(room=2)).calls == [one]
    assert choose([replace(one, call=replace(one.call, alone=True))], [first, second], 0.5, 0.0, Rules()).calls
    assert choose([one], [first], 0.5, 0.0, Rules()).calls == [one]
    assert choose([asked(None, 0.5)], [], 0.5, 0.0, Rules()).calls
    assert choose([], [first], 0.5, 0.0, Rules()).seconds is None


def test_time_in_another_call_is_no_waiting() -> None:
    """The wait begins when the network is free."""
    first, second = Present(0, 0.0), Present(0, 0.0)
    one = asked(first, 0.5)
    assert not choose([one], [first, second], 5.9, 5.0, Rules()).calls
    assert choose([one], [first, second], 6.1, 5.0, Rules()).calls


def test_a_run_is_overdue_by_its_own_habits() -> None:
    run = Present(0, 1.0)
    assert run.due == 1.0 + UNKNOWN
    run.called("a", 2, 1.5)
    assert run.gap is None  # the time before the first call says nothing
    run.answered(2.0)
    run.called("a", 2, 2.1)
    run.answered(3.0)
    assert run.due == pytest.approx(3.0 + GAPS * 0.1 + SLACK)


def test_a_run_is_waited_for_as_long_as_that_is_little_against_what_it_saves() -> None:
    """And not again and again: once it is overdue it stays so until it calls."""
    late = Present(0, 1.0, "a", 2, gap=0.001)
    one = asked(Present(0, 0.0), 1.0, "kind")
    for seconds, until in ((4.0, 2.0), (0.01, late.due)):
        calls = DeviceCalls(costs(rows2=seconds, rows4=seconds), None, None, None)
        assert calls.until([one], late, 1.0) == pytest.approx(min(until, 1.0 + seconds))
        assert calls.until([one], late, 9.0) == pytest.approx(until)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rows": 0}, "rows must be at least 1; got 0"),
        ({"max_rows": 0}, "max_rows must be at least 1, or None for no limit; got 0"),
        ({"window": -1.0}, "window must be seconds from 0, or None for a measured one; got -1.0"),
        ({"window": float("nan")}, "window must be seconds from 0, or None for a measured one; got nan"),
    ],
)
def test_settings_are_checked(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchSettings(**settings)
