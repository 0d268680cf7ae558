"""A bound on each of the many waits of a task, on one timer."""

import asyncio
from types import TracebackType
from typing import Self


class Patience:
    """``with patience.until(time): await …`` raises TimeoutError when the loop's time is past it.

    ``asyncio.timeout`` makes and drops a timer of the loop for each wait. Here the timer stays,
    and is set again only when it comes: a wait that ends in time costs two assignments. The
    waits of one reader come one after the other, never one inside another; ``close`` in the end.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._until: float | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._expired = False

    def until(self, time: float) -> Self:
        self._until = time
        if self._timer is None or self._timer_at > time:
            self._set(time)
        return self

    def close(self) -> None:
        """Drop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._until = None
        if self._expired:
            self._expired = False
            assert self._task is not None
            # As asyncio.timeout has it: somebody else's cancel is not ours to take back.
            ours = self._task.uncancel() <= self._cancelling
            if ours and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise TimeoutError from error

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._came)

    def _came(self) -> None:
        self._timer = None
        until = self._until
        if until is None:
            return  # the next wait sets it
        if self._timer_at < until:
            self._set(until)
        elif self._task is not None and not self._expired:
            self._expired = True
            self._task.cancel()
