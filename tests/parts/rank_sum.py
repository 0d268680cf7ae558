"""Whether two ways take as long: a rank test of what each took, and when a difference is one."""

import statistics
from typing import Final

ALPHA: Final = 1e-4
"""How seldom two samples of one distribution may be told apart."""
LEAST_S: Final = 0.0005
"""Medians that differ by less are alike: many samples find any difference significant, and one
that no network shows is none."""


def rank_sum(one: list[float], other: list[float]) -> float:
    """The probability that samples of one distribution differ as much as these (Mann and Whitney,
    1947; the normal approximation, for samples of 20 and more without many ties), two-sided.
    """
    both = sorted([(value, 0) for value in one] + [(value, 1) for value in other])
    ranks = sum(at for at, (_, which) in enumerate(both, 1) if which == 0)
    n, m = len(one), len(other)
    u = ranks - n * (n + 1) / 2
    z = (u - n * m / 2) / (n * m * (n + m + 1) / 12) ** 0.5
    return 2 * (1 - statistics.NormalDist().cdf(abs(z)))


def told_apart(one: list[float], other: list[float]) -> bool:
    """Whether samples, in seconds, show that one way takes longer than the other."""
    apart = abs(statistics.median(one) - statistics.median(other))
    return apart > LEAST_S and rank_sum(one, other) < ALPHA
