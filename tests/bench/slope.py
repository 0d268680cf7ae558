"""Slope: whether a row of figures grows, by Theil and Sen. Pure.

The slope is the median of the slopes of all pairs; its interval at 95 % is of their ranks
(P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", 1968), with the
variance of Kendall's S corrected for ties. It asks for no normal distribution, and a step or a peak
moves it little. It does ask for independent figures: give it medians of stretches, not each look.
"""

from bisect import insort
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import ceil, floor, sqrt
from statistics import median
from typing import Final, NamedTuple

Z: Final = 1.96
"""Of the normal distribution, for 95 %."""


class Slope(NamedTuple):
    """Units of the values for a unit of time, and the interval around it."""

    slope: float
    low: float
    high: float

    @property
    def flat(self) -> bool:
        """Whether it cannot be told from zero."""
        return self.low <= 0 <= self.high


def slope(times: Sequence[float], values: Sequence[float]) -> Slope:
    """Of three points or more at different times."""
    points = list(zip(times, values, strict=True))
    n, pairs = len(points), list[float]()
    for at, (time, value) in enumerate(points):
        for earlier, was in points[:at]:
            insort(pairs, (value - was) / (time - earlier))
    ties = sum(t * (t - 1) * (2 * t + 5) for t in Counter(values).values())
    spread = Z * sqrt((n * (n - 1) * (2 * n + 5) - ties) / 18)
    last = len(pairs) - 1
    low = max(0, floor((len(pairs) - spread) / 2))
    high = min(last, ceil((len(pairs) + spread) / 2))
    return Slope(median(pairs), pairs[low], pairs[high])


def stretches(
    times: Sequence[float], values: Sequence[float], count: int
) -> tuple[list[float], list[float]]:
    """The medians of ``count`` stretches of about as many points, in order; fewer if there are
    fewer points.
    """
    bounds = [len(times) * at // count for at in range(count + 1)]
    parts = [slice(a, b) for a, b in pairwise(bounds) if a < b]
    return [median(times[part]) for part in parts], [median(values[part]) for part in parts]
