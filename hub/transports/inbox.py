"""Parts of a connection that wait, made for there being thousands that do.

uvicorn gives each connection an ``asyncio.Queue`` and an ``asyncio.Event``: with the queue's own
event, four deques and 4 KiB that an idle connection never uses. These do the same for one reader.
"""

import asyncio
from typing import Any


class Inbox:
    """Messages for the one task that reads them; as much of ``asyncio.Queue`` as uvicorn uses."""

    __slots__ = ("_arrival", "_messages")

    def __init__(self) -> None:
        self._messages: list[Any] = []
        self._arrival: asyncio.Future[None] | None = None

    def put_nowait(self, message: Any) -> None:
        self._messages.append(message)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def empty(self) -> bool:
        return not self._messages

    async def get(self) -> Any:
        """Take the oldest message; wait for one if there is none. One task at a time."""
        while not self._messages:
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        # Few ever wait: reading pauses while a message does.
        return self._messages.pop(0)


class Gate:
    """An ``asyncio.Event`` that has one inside only while somebody waits."""

    __slots__ = ("_event", "_open")

    def __init__(self) -> None:
        self._open = True
        self._event: asyncio.Event | None = None

    def is_set(self) -> bool:
        return self._open

    def set(self) -> None:
        self._open = True
        if self._event is not None:
            self._event.set()
            self._event = None

    def clear(self) -> None:
        self._open = False

    async def wait(self) -> bool:
        while not self._open:
            if self._event is None:
                self._event = asyncio.Event()
            await self._event.wait()
        return True
