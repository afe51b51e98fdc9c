"""Bootstrap intervals cover the truth as often as they say, and pairs of seeds cancel what they share."""

import math

import numpy as np
import pytest

from sigmafield.lab.statistics import difference, interval, ratio


def test_coverage():
    """Of 60 samples of 25 exponential numbers, the intervals of about 95 % hold the mean."""
    rng = np.random.default_rng(1)
    found = [interval(rng.exponential(size=25)) for _ in range(60)]
    assert 0.83 <= np.mean([i.low <= 1 <= i.high for i in found]) < 1


def test_pairs_cancel_what_seeds_share():
    rng = np.random.default_rng(2)
    seeds = 100 * rng.random(12)
    a, b = seeds + 1 + 0.1 * rng.random(12), seeds
    found = difference(a, b)
    assert found.value == pytest.approx(1.05, abs=0.05) and found.excludes(0) and found.high - found.low < 0.1
    assert not interval(a).excludes(float(np.mean(b)))


def test_ratio_is_geometric():
    found = ratio([2.0, 8.0, 4.0], [1.0, 4.0, 2.0])
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))


def test_no_interval_without_seeds():
    found = interval([1.0, 2.0])
    assert math.isnan(found.low) and not found.excludes(5) and "too few seeds" in str(found)
    assert (interval([3.0] * 4).low, interval([3.0] * 4).high) == (3, 3)
    with pytest.raises(ValueError, match="at least one"):
        interval([])
