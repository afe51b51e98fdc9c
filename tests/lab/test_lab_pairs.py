"""Two arms of a table are found by what identifies them, and compared over the seeds that both have."""

import polars
import pytest

from sigmafield.lab.pairs import pair, rows_named


@pytest.fixture
def table():
    rows = [
        {"sampler": name, "cfg": cfg, "seed": seed, "error": factor * cfg * (seed + 1), "image": "x"}
        for name, factor in (("euler", 4.0), ("apg(a=1,b=2)", 1.0))
        for cfg in (1.0, 2.5)
        for seed in range(4)
    ]
    return polars.DataFrame(rows[:-1])


def test_pairs_of_seeds(table):
    """The factor is the same for every seed, so that its interval is a point. One arm lacks the last seed."""
    found = pair(table, "error", "sampler=euler,cfg=2.5", "sampler=apg(a=1,b=2),cfg=2.5")
    assert found.ratio is not None and found.a.n == found.b.n == 3
    assert (found.ratio.value, found.ratio.low, found.ratio.high) == pytest.approx((4, 4, 4))
    assert found.difference.value == pytest.approx(3 * 2.5 * 2)


def test_numbers_are_compared_as_numbers(table):
    assert rows_named(table, "sampler=euler,cfg=1.0").equals(rows_named(table, "cfg=1,sampler=euler"))


def test_no_ratio_of_zeros(table):
    zeros = table.with_columns(error=polars.lit(0.0))
    assert pair(zeros, "error", "sampler=euler,cfg=1", "sampler=euler,cfg=2.5").ratio is None


@pytest.mark.parametrize(
    "column, arm, message",
    [
        ("error", "sampler=euler", "is several arms: add a value of cfg"),
        ("error", "samplr=euler", "did you mean sampler"),
        ("error", "euler", "an arm must be COLUMN=VALUE"),
        ("error", "sampler=euler,cfg=3", "no row has cfg=3; with what is before it, cfg is 1, 2.5"),
        ("eror", "sampler=euler,cfg=1", "did you mean error"),
        ("image", "sampler=euler,cfg=1", "no column of numbers 'image'"),
    ],
)
def test_refusals(table, column, arm, message):
    with pytest.raises(ValueError, match=message):
        pair(table, column, arm, "sampler=euler,cfg=1")
