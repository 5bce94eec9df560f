"""Means, deviations, and confidence intervals of differences that are paired by seed."""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
MAX_SEEDS = 1000  # more are not reported as a number


class Summary(NamedTuple):
    """Scores of one row over its seeds."""

    number: int
    mean: Optional[float]  # None without scores
    deviation: Optional[float]  # standard deviation with n - 1; None for fewer than two scores


class Difference(NamedTuple):
    """Differences of scores over seeds, with the confidence interval of Student's t for their mean."""

    number: int
    mean: Optional[float]
    deviation: Optional[float]
    low: Optional[float]  # None for fewer than two seeds
    high: Optional[float]
    needed: Optional[int]  # seeds with which such a mean and deviation would exclude 0; None: unknown, or too many


def summarize(scores: Sequence[float]) -> Summary:
    """Mean and standard deviation.

    Example:
        >>> summarize([1.0, 2.0, 3.0])
        Summary(number=3, mean=2.0, deviation=1.0)
    """
    mean = float(np.mean(scores)) if len(scores) else None
    deviation = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    return Summary(len(scores), mean, deviation)


def paired(differences: Sequence[float]) -> Difference:
    """Mean of the differences and its two-sided 95 % confidence interval."""
    count, mean, deviation = summarize(differences)
    if mean is None or deviation is None:
        return Difference(count, mean, deviation, None, None, None)
    half = half_width(deviation, count)
    return Difference(count, mean, deviation, mean - half, mean + half, seeds_needed(mean, deviation))


def half_width(deviation: float, count: int) -> float:
    """Half of the width of the confidence interval of a mean of `count` values."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * deviation / count**0.5)


def seeds_needed(mean: float, deviation: float) -> Optional[int]:
    """The smallest number of seeds with which a mean and a deviation like these would exclude 0.

    None if it is above `MAX_SEEDS`. It is a plan, not a promise: with more seeds, mean and deviation change.
    """
    return next((n for n in range(2, MAX_SEEDS + 1) if half_width(deviation, n) < abs(mean)), None)
