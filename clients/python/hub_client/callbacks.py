"""Callbacks: user code that is called with events and notices.

Each registration has a queue and a task of its own, so that a callback may await anything the SDK
offers, takes its events in order, and delays nobody but itself.
"""

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

log = logging.getLogger("hub_client")

QUEUE: Final = 10_000
"""Calls that may wait for one callback; one more removes the callback."""

Callback = Callable[[Any], Awaitable[None] | None]


class Registration:
    """A callback that was registered with ``hub.on``."""

    def __init__(self, callbacks: "Callbacks", type: str, callback: Callback) -> None:
        self.type = type
        self._callbacks = callbacks
        self._callback = callback
        self._queue: deque[Any] = deque()
        self._wake = asyncio.Event()
        self._removed = False
        self.task = asyncio.create_task(self._run(), name=f"hub-callback-{type}")

    def remove(self) -> None:
        """Call it no more. The call that is under way is finished."""
        self._removed = True
        self._queue.clear()
        self._wake.set()
        self._callbacks.forget(self)

    def put(self, value: Any) -> None:
        if len(self._queue) >= QUEUE:
            log.error("a callback of %s is too slow and was removed", self.type)
            self.remove()
            return
        self._queue.append(value)
        self._wake.set()

    async def _run(self) -> None:
        while not self._removed:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            value = self._queue.popleft()
            try:
                result = self._callback(value)
                if inspect.isawaitable(result):
                    await result
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and _cancelled():
                    raise
                # User code failed, or awaited what was cancelled; the next event is no worse.
                log.exception("a callback of %s failed", self.type)


class Callbacks:
    """The registrations of one hub, by type; ``"*"`` is called with everything."""

    def __init__(self) -> None:
        self._by_type: dict[str, list[Registration]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def on(self, type: str, callback: Callback) -> Registration:
        registration = Registration(self, type, callback)
        self._by_type.setdefault(type, []).append(registration)
        self._tasks.add(registration.task)
        registration.task.add_done_callback(self._tasks.discard)
        return registration

    def dispatch(self, type: str, value: Any) -> None:
        """Queue a call. Never blocks, never calls user code."""
        for key in (type, "*"):
            for registration in list(self._by_type.get(key, ())):
                registration.put(value)

    def forget(self, registration: Registration) -> None:
        registrations = self._by_type.get(registration.type, [])
        if registration in registrations:
            registrations.remove(registration)

    async def close(self) -> None:
        """End all tasks; the one that calls this ends when its callback returns."""
        for registrations in list(self._by_type.values()):
            for registration in list(registrations):
                registration.remove()
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def _cancelled() -> bool:
    """Whether it is the task that runs now that is to end, and not one that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
