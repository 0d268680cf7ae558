"""A map whose items expire, in bounded memory and without a timer."""

from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

SWEEP_STEP = 4
"""Expired items that one ``put`` removes at most: more than it adds, so the map shrinks."""


class Expiring(Generic[K, V]):
    """Items by key, each until an instant of the caller's clock, in seconds.

    An expired item is never answered, and each ``put`` removes a few: the memory is bounded by
    what is alive and what comes in, with no sweep that stalls the loop.
    """

    def __init__(self) -> None:
        self._items: dict[K, tuple[float, V]] = {}
        # One entry per key at least, at or before the item's expiry; the counter breaks ties.
        self._due: list[tuple[float, int, K]] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: K, now: float) -> V | None:
        """The item, or None if there is none or it has expired."""
        held = self._items.get(key)
        if held is None or held[0] <= now:
            return None
        return held[1]

    def put(self, key: K, value: V, until: float, now: float) -> None:
        """Hold ``value`` until ``until``, in place of any other of this key."""
        held = self._items.get(key)
        self._items[key] = (until, value)
        if held is None or until < held[0]:
            heappush(self._due, (until, next(self._order), key))
        self._sweep(now)

    def keep(self, key: K, until: float) -> None:
        """Let an item that is held live until ``until``."""
        self._items[key] = (until, self._items[key][1])

    def drop(self, key: K) -> None:
        """Forget the key; not held is fine."""
        self._items.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()
        self._due.clear()

    def _sweep(self, now: float) -> None:
        due, items = self._due, self._items
        for _ in range(SWEEP_STEP):
            if not due or due[0][0] > now:
                break
            _, _, key = heappop(due)
            held = items.get(key)
            if held is None:
                continue
            if held[0] <= now:
                del items[key]
            else:  # it was kept for longer meanwhile
                heappush(due, (held[0], next(self._order), key))
        if len(due) > 2 * len(items) + 1024:  # mostly of keys that were dropped
            due[:] = [(until, next(self._order), key) for key, (until, _) in items.items()]
            heapify(due)
