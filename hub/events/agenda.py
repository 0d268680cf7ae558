"""When things are due, on one timer of the event loop, however many things there are."""

import asyncio
from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Agenda(Generic[T]):
    """Calls ``wake(item)`` when the item is due, once, by the loop's clock."""

    def __init__(self, wake: Callable[[T], None]) -> None:
        self._wake = wake
        self._when: dict[T, float] = {}
        # Each item at its time, and times at which it is not due any more; the counter breaks ties.
        self._heap: list[tuple[float, int, T]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def set(self, item: T, when: float) -> None:
        """The item is due at ``when`` and at no other time; never if that is infinity."""
        if when == self._when.get(item, inf):
            return
        if when == inf:
            self.drop(item)
            return
        self._when[item] = when
        heappush(self._heap, (when, next(self._order), item))
        if len(self._heap) > 2 * len(self._when) + 64:
            self._heap = [(due, next(self._order), each) for each, due in self._when.items()]
            heapify(self._heap)
        self._set_timer()

    def drop(self, item: T) -> None:
        """The item is not due at all. One that is not known is fine."""
        self._when.pop(item, None)

    def close(self) -> None:
        """Wake nothing any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._when.clear()
        self._heap.clear()

    def _set_timer(self) -> None:
        if self._closed or not self._heap:
            return
        soonest = self._heap[0][0]
        if self._timer is not None:
            if self._timer.when() <= soonest:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(soonest, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._heap and self._heap[0][0] <= now:
            when, _, item = heappop(self._heap)
            if self._when.get(item) == when:
                del self._when[item]
                self._wake(item)
        self._set_timer()
