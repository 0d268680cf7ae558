"""What was found where it is remembered, and what had to be asked for: plain numbers, made metrics
when they are read, since some are counted with every message.
"""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector


class Lookups:
    """Of one cache. The event loop's thread, and no other, counts."""

    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0


class Caches(Collector):
    """All caches, by name."""

    def __init__(self, *names: str) -> None:
        self._caches = {name: Lookups() for name in names}

    def __getitem__(self, name: str) -> Lookups:
        return self._caches[name]

    def collect(self) -> Iterable[CounterMetricFamily]:
        names = ", ".join(f"`{name}`" for name in self._caches)
        counts = CounterMetricFamily(
            "hub_cache_lookups",
            f"Look-ups of what is remembered, by cache ({names}) and by whether it was there. "
            "hits / all is the hit ratio.",
            labels=["cache", "outcome"],
        )
        for name, lookups in self._caches.items():
            counts.add_metric([name, "hit"], lookups.hits)
            counts.add_metric([name, "miss"], lookups.misses)
        yield counts
