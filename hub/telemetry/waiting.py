"""What waits in outboxes, as a histogram of the moment in which it is asked for."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.core import GaugeHistogramMetricFamily
from prometheus_client.registry import Collector

BOUNDS: Final = (0, 1_024, 16_384, 65_536, 262_144, 1_048_576)
"""Bytes. The last is where a reader is given up."""


class Waiting(Collector):
    """Looks at every reader's outbox when the metrics are read, and not on the send path.

    Each of ``sizes`` answers the bytes that wait for each reader of a kind.
    """

    def __init__(self) -> None:
        self.sizes: list[Callable[[], Iterable[int]]] = []

    def collect(self) -> Iterable[GaugeHistogramMetricFamily]:
        sizes = sorted(size for kind in self.sizes for size in kind())
        buckets = [(str(float(bound)), _up_to(sizes, bound)) for bound in BOUNDS]
        buckets.append(("+Inf", len(sizes)))
        yield GaugeHistogramMetricFamily(
            "hub_outbox_bytes",
            "Bytes that wait for each open connection and stream now, beyond what its transport "
            "holds.",
            buckets=buckets,
            gsum_value=sum(sizes),
        )


def _up_to(sizes: list[int], bound: int) -> int:
    return sum(size <= bound for size in sizes)
