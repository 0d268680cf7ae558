"""Deliveries counted on the hottest path there is: plain numbers, made metrics when they are read.

A counter of the library takes a lock and some microseconds; delivering to a subscriber takes three.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

BOUNDS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
"""Seconds."""


class Deliveries(Collector):
    """What the event loop's thread, and no other, has delivered."""

    def __init__(self) -> None:
        self.replayed = 0
        self._live = 0
        self._seconds = 0.0
        self._turns = [0] * (len(BOUNDS) + 1)

    def live(self, events: int, seconds: float) -> None:
        """So many events have gone to a subscriber each, in a turn that took so long."""
        self._live += events
        self._seconds += seconds
        self._turns[bisect_left(BOUNDS, seconds)] += 1

    def collect(self) -> Iterable[CounterMetricFamily | HistogramMetricFamily]:
        counts = CounterMetricFamily(
            "hub_events_delivered", "Events delivered to subscribers, by how.", labels=["path"]
        )
        counts.add_metric(["live"], self._live)
        counts.add_metric(["replay"], self.replayed)
        yield counts
        bounds = [*(str(bound) for bound in BOUNDS), "+Inf"]
        yield HistogramMetricFamily(
            "hub_fanout_seconds",
            "Time to hand the events of a turn of the event loop to all who follow them here.",
            buckets=list(zip(bounds, accumulate(self._turns), strict=True)),
            sum_value=self._seconds,
        )
