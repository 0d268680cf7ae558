"""Outboxes: what waits to be written to a connection, bounded, and written in one go.

An outbox is a queue of ready WebSocket frames. One ``FlushScheduler`` per process writes each dirty
outbox once per turn of the event loop with one call, so that frames of one turn cost one system
call, and no connection has a task of its own on the send path.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from hub.protocol.limits import OUTBOX_BYTES

REPLAY_BYTES: Final = OUTBOX_BYTES // 4
"""A replay waits while more than this is queued, so that live events find room."""


class Writer(Protocol):
    """The way out of a connection. ``write`` never blocks; it is called only while ``ready``."""

    @property
    def ready(self) -> bool:
        """Whether the transport takes more now; when it does again, it calls ``resumed``."""

    def write(self, data: bytes) -> None:
        """Hand ready frames to the transport."""

    resumed: Callable[[], None]


class FlushScheduler:
    """Writes every outbox that became dirty in a turn of the loop, at the end of that turn."""

    def __init__(self) -> None:
        self._dirty: list[Outbox] = []

    def add(self, outbox: "Outbox") -> None:
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty.append(outbox)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for outbox in dirty:
            try:
                outbox.flush()
            except Exception as error:
                # A transport that fails must not cost its neighbours their frames.
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "A connection could not be written to", "exception": error}
                )


class Outbox:
    """The frames that wait for one connection.

    ``overflow`` is called once, when more than ``limit`` bytes wait; the outbox then drops what it
    holds and takes no more: the connection is to be closed with 4008.
    """

    __slots__ = ("_dirty", "_frames", "_limit", "_overflow", "_room", "_scheduler", "_writer",
                 "closed", "size")  # fmt: skip

    def __init__(
        self,
        writer: Writer,
        scheduler: FlushScheduler,
        overflow: Callable[[], None],
        limit: int = OUTBOX_BYTES,
    ) -> None:
        self._writer = writer
        self._scheduler = scheduler
        self._overflow = overflow
        self._limit = limit
        self._frames: list[bytes] = []  # a deque would be a KiB, and only ever taken whole
        self._dirty = False
        self._room: asyncio.Event | None = None
        self.size = 0
        self.closed = False
        writer.resumed = self.flush

    def put(self, frame: bytes) -> None:
        """Queue a ready frame."""
        if self.closed:
            return
        self._frames.append(frame)
        self.size += len(frame)
        if self.size > self._limit:
            self.close()
            self._overflow()
        elif not self._dirty:
            self._dirty = True
            self._scheduler.add(self)

    def flush(self) -> None:
        """Write what waits, if the transport takes it."""
        self._dirty = False
        if not self._frames or not self._writer.ready:
            return
        frames = self._frames
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        frames.clear()
        self.size = 0
        self._writer.write(data)
        if self._room is not None:
            self._room.set()

    async def room(self) -> None:
        """Return when less than ``REPLAY_BYTES`` wait; CancelledError once the outbox is closed."""
        while self.size > REPLAY_BYTES and not self.closed:
            if self._room is None:
                self._room = asyncio.Event()
            self._room.clear()
            await self._room.wait()
        if self.closed:
            raise asyncio.CancelledError

    def close(self) -> None:
        """Drop what waits and take no more. Idempotent."""
        self.closed = True
        self._frames.clear()
        self.size = 0
        if self._room is not None:
            self._room.set()
