"""A sieve: of each source a few get through, and the rest is counted. Pure."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

S = TypeVar("S", bound=Hashable)

MOST: Final = 10_000
"""Sources that are known at a time; of more nothing gets through, and it is counted as one."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float
    left: Counter[str] | None = None
    """What did not get through, by kind."""


class Sieve(Generic[S]):
    """Lets ``burst`` through at once of each source, and one more every ``every_s``."""

    def __init__(
        self,
        *,
        burst: int,
        every_s: float,
        clock: Callable[[], float],
        most: int = MOST,
    ) -> None:
        self._burst = burst
        self._every_s = every_s
        self._clock = clock
        self._most = most
        self._buckets: OrderedDict[S, _Bucket] = OrderedDict()
        self._others: Counter[str] = Counter()

    def admits(self, source: S, kind: str) -> bool:
        """Whether it gets through."""
        now = self._clock()
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= self._most and not self._forget(now):
                self._others[kind] += 1
                return False
            bucket = self._buckets[source] = _Bucket(self._burst, now)
        self._buckets.move_to_end(source)
        gained = (now - bucket.at) / self._every_s
        bucket.tokens, bucket.at = min(self._burst, bucket.tokens + gained), now
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return True
        self.leave_out(source, kind)
        return False

    def leave_out(self, source: S, kind: str) -> None:
        """Count one that did not get through, of a source that is known."""
        bucket = self._buckets[source]
        bucket.left = bucket.left or Counter()
        bucket.left[kind] += 1

    def left(self) -> list[tuple[S | None, Counter[str]]]:
        """What did not get through since this was asked last, by source and kind; None is the
        source of those that were too many to be known.
        """
        told: list[tuple[S | None, Counter[str]]] = []
        for source, bucket in self._buckets.items():
            if bucket.left is not None:
                told.append((source, bucket.left))
                bucket.left = None
        if self._others:
            told.append((None, self._others))
            self._others = Counter()
        return told

    def _forget(self, now: float) -> bool:
        """Make room: the source that was heard of longest ago, if it has nothing to tell and would
        have all its tokens again.
        """
        source, bucket = next(iter(self._buckets.items()))
        if bucket.left is None and now - bucket.at >= self._burst * self._every_s:
            del self._buckets[source]
            return True
        return False
