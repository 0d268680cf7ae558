"""A sieve: of each source a few get through, and the rest is counted. Pure."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

S = TypeVar("S", bound=Hashable)

MOST: Final = 10_000
"""Sources that are known at a time; of more nothing gets through, and it is counted as one."""


@dataclass(slots=True)
class Left:
    """What did not get through, by kind, since an instant of the clock."""

    since: float
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        return self.kinds.total()


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float
    left: Left | None = None


class Sieve(Generic[S]):
    """Lets ``burst`` through at once of each source, and one more every ``every_s``.

    What was left out is told ``after_s`` after the first of it.
    """

    def __init__(
        self,
        *,
        burst: int,
        every_s: float,
        after_s: float,
        clock: Callable[[], float],
        most: int = MOST,
    ) -> None:
        self._burst = burst
        self._every_s = every_s
        self._after_s = after_s
        self._clock = clock
        self._most = most
        self._buckets: OrderedDict[S, _Bucket] = OrderedDict()
        self._others: Left | None = None

    def admits(self, source: S, kind: str) -> bool:
        """Whether it gets through."""
        now = self._clock()
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= self._most and not self._forget(now):
                self._others = self._others or Left(now)
                self._others.kinds[kind] += 1
                return False
            bucket = self._buckets[source] = _Bucket(self._burst, now)
        self._buckets.move_to_end(source)
        gained = (now - bucket.at) / self._every_s
        bucket.tokens, bucket.at = min(self._burst, bucket.tokens + gained), now
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return True
        bucket.left = bucket.left or Left(now)
        bucket.left.kinds[kind] += 1
        return False

    def due(self, *, all: bool = False) -> list[tuple[S | None, Left]]:
        """What was left out long enough ago (or at all); None is the source of those that were too
        many to be known. It is told once.
        """
        until = self._clock() - (0 if all else self._after_s)
        told: list[tuple[S | None, Left]] = []
        for source, bucket in self._buckets.items():
            if bucket.left is not None and bucket.left.since <= until:
                told.append((source, bucket.left))
                bucket.left = None
        if self._others is not None and self._others.since <= until:
            told.append((None, self._others))
            self._others = None
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
