"""Means with bootstrap intervals, of one arm or of two arms whose seeds are paired."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
"""Confidence of all intervals."""

RESAMPLES = 4000
"""Samples that a bootstrap draws, from seed 0, so that the same rows give the same interval."""


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval.

    Args:
        value: The estimate.
        low: Lower end of the interval; NaN where there are fewer than 3 values.
        high: Upper end.
        n: Number of values, or of pairs.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.3g} (too few seeds for an interval)"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def excludes(self, value: float) -> bool:
        """Whether a value lies outside of the interval; False where there is no interval."""
        return value < self.low or value > self.high


def interval(values: Sequence[float] | np.ndarray, level: float = LEVEL) -> Interval:
    """The mean with its bias-corrected and accelerated bootstrap interval. Efron, JASA 82 (1987).

    Args:
        values: One number per seed, finite.
        level: Confidence, above 0 and below 1.

    Raises:
        ValueError: There is no value.
    """
    from scipy.stats import bootstrap  # slow to import

    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        raise ValueError("an interval needs at least one value")
    mean = float(numbers.mean())
    if len(numbers) < 3 or not np.isfinite(numbers).all():
        return Interval(mean, math.nan, math.nan, len(numbers))
    if np.ptp(numbers) <= 1e-12 * max(abs(mean), 1e-300):
        return Interval(mean, mean, mean, len(numbers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are almost equal
        found: Any = bootstrap(
            (numbers,), np.mean, confidence_level=level, n_resamples=RESAMPLES, rng=np.random.default_rng(0)
        ).confidence_interval
    low, high = float(found.low), float(found.high)
    if math.isnan(low) or math.isnan(high):
        return Interval(mean, float(numbers.min()), float(numbers.max()), len(numbers))
    return Interval(mean, low, high, len(numbers))


def difference(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> Interval:
    """The mean of a − b over seeds that both have, in the same order."""
    return interval(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))


def ratio(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> Interval:
    """The geometric mean of a/b over seeds that both have; all numbers are above 0."""
    logs = difference(np.log(a), np.log(b))
    return Interval(math.exp(logs.value), math.exp(logs.low), math.exp(logs.high), logs.n)


def unsure(found: Interval, neutral: float) -> str:
    """What a sentence adds after an interval that holds the value of no difference; "" for others."""
    return "" if found.excludes(neutral) else " (no difference can be told)"
