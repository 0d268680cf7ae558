"""The waits of channels that the hub cannot carry now: a timer and a backoff for each."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from hub_client.retry import Backoff


@dataclass(slots=True)
class _Wait:
    backoff: Backoff
    live_since: float | None = None
    timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class PostponedChannels:
    """Calls ``again(channel)`` when a wait is over; waits get longer while a channel stays away."""

    def __init__(self, backoff: Backoff, again: Callable[[str], None]) -> None:
        self._backoff = backoff
        self._again = again
        self._waits: dict[str, _Wait] = {}

    def postpone(self, channel: str, retry_after: float) -> None:
        """Wait for as many seconds as the hub asked for, and the backoff's."""
        wait = self._waits.setdefault(channel, _Wait(self._backoff.another()))
        wait.stop()
        since, wait.live_since = wait.live_since, None
        live_for = 0.0 if since is None else time.monotonic() - since
        delay = wait.backoff.lost(ready_for=live_for, retry_after=retry_after)
        wait.timer = asyncio.get_running_loop().call_later(delay, self._again, channel)

    def live(self, channel: str) -> None:
        """It is there (again); if it stays, the next wait is a short one."""
        wait = self._waits.get(channel)
        if wait is not None:
            wait.stop()
            wait.live_since = time.monotonic()

    def forget(self, channel: str) -> None:
        """Nobody wants the channel any more."""
        wait = self._waits.pop(channel, None)
        if wait is not None:
            wait.stop()

    def close(self) -> None:
        """Stop all waits."""
        for channel in list(self._waits):
            self.forget(channel)
