"""The frames that wait to be written to the socket of the moment."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

import websockets
from websockets.asyncio.client import ClientConnection


class Outbox:
    """A queue of frames and the loop that writes them."""

    def __init__(self) -> None:
        self._frames: deque[str] = deque()
        self._writable = asyncio.Event()
        self._flushed = asyncio.Event()

    def put(self, text: str) -> None:
        self._frames.append(text)
        self._writable.set()

    def clear(self) -> None:
        """Drop what waits: it was meant for a socket that has gone."""
        self._frames.clear()
        self._flushed.set()

    async def flushed(self, waiting: Callable[[], bool]) -> None:
        """Return when all is written and nothing is ``waiting`` to be queued."""
        while self._frames or waiting():
            self._flushed.clear()
            await self._flushed.wait()

    async def write(self, socket: ClientConnection) -> None:
        """Write what comes to this socket, until it is closed."""
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                while self._frames:
                    await socket.send(self._frames.popleft())
                self._flushed.set()
                self._writable.clear()
                await self._writable.wait()
