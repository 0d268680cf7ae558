"""Outboxes: what waits to be written to a connection, bounded, and written in one go.

While the transport takes what it is given, an outbox is a list of ready frames, and one
``FlushScheduler`` per process writes each that became dirty in a turn of the event loop with one
call at the turn's end: the frames of a turn cost one system call, and no connection has a task of
its own on the send path. When the transport is full, what comes is held; deltas of one message are
joined (``span``) when that comes to too much, and again before it is written.
"""

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Final, Protocol

from hub.events.delivery import Delivery
from hub.events.span import join
from hub.protocol.limits import OUTBOX_BYTES

REPLAY_BYTES: Final = OUTBOX_BYTES // 4
"""A replay waits while more than this is queued, so that live events find room."""


class Writer(Protocol):
    """The way out of a connection. ``write`` never blocks.

    When the transport is full it calls ``paused``, and ``resumed`` when it takes more again. In
    between nothing is written.
    """

    paused: Callable[[], None]
    resumed: Callable[[], None]

    @property
    def write(self) -> Callable[[bytes], object]:
        """Hand ready frames to the transport."""


class FlushScheduler:
    """Writes every outbox that became dirty in a turn of the loop, at the end of that turn.

    ``joined`` is told how many deliveries were joined into others for readers that are slow, and
    ``took`` how many seconds the writing of a turn took.
    """

    def __init__(
        self,
        joined: Callable[[int], None] = lambda count: None,
        took: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.dirty: list[Outbox] = []
        self.joined = joined
        self._took = took

    def wake(self) -> None:
        """There is a first dirty outbox in this turn."""
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        began = perf_counter()
        dirty, self.dirty = self.dirty, []
        for outbox in dirty:
            try:
                outbox.flush()
            except Exception as error:
                # A transport that fails must not cost its neighbours their frames.
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "A connection could not be written to", "exception": error}
                )
        self._took(perf_counter() - began)


class Outbox:
    """What waits for one connection; ``size`` is the bytes of it.

    ``overflow`` is called once, when more than ``limit`` bytes are held for a full transport though
    their deltas were joined; the outbox then drops what it holds and takes no more: the connection
    is to be closed with 4008.
    """

    __slots__ = ("_first", "_held", "_limit", "_more", "_overflow", "_ready", "_room",
                 "_scheduler", "_writer", "closed", "size")  # fmt: skip

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
        # What waits for the end of this turn. Mostly that is one frame, which needs no list.
        self._first: bytes | None = None
        self._more: list[bytes] = []
        self._held: list[Delivery | bytes] = []
        self._ready = True
        self._room: asyncio.Event | None = None
        self.size = 0
        self.closed = False
        writer.paused = self._pause
        writer.resumed = self._resume

    def deliver(self, delivery: Delivery) -> None:
        """Queue an event."""
        # As ``put``, written out: this runs once per event and subscriber.
        if self._ready:
            frame = delivery.frame
            if self._first is None:
                self._first = frame
                self.size = len(frame)
                dirty = self._scheduler.dirty
                if not dirty:
                    self._scheduler.wake()
                dirty.append(self)
            else:
                self._add(frame)
        else:
            self._hold(delivery, len(delivery.frame))

    def put(self, frame: bytes) -> None:
        """Queue a ready frame."""
        if not self._ready:
            self._hold(frame, len(frame))
        elif self._first is None:
            self._first = frame
            self.size = len(frame)
            dirty = self._scheduler.dirty
            if not dirty:
                self._scheduler.wake()
            dirty.append(self)
        else:
            self._add(frame)

    def _add(self, frame: bytes) -> None:
        self._more.append(frame)
        self.size += len(frame)
        if self.size > self._limit:
            self.flush()

    def flush(self) -> None:
        """Write what waits, unless the transport is full."""
        data = self._first
        if data is None:
            return
        self._first = None
        if self._more:
            data = b"".join((data, *self._more))
            self._more.clear()
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

    def forget(self, channel: str) -> None:
        """Drop the events of a channel that are held: its subscription has ended."""
        if self._held:
            self._hold_only([i for i in self._held if isinstance(i, bytes) or i.channel != channel])

    def close(self) -> None:
        """Drop what waits and take no more. Idempotent."""
        self.closed = True
        self._ready = False
        self._first = None
        self._more = []
        self._held = []
        self.size = 0
        if self._room is not None:
            self._room.set()

    # --- while the transport is full ---

    def _pause(self) -> None:
        self._ready = False
        if self._first is not None:  # of this turn, in which somebody else has written too
            self._held += (self._first, *self._more)
            self._first = None
            self._more = []

    def _resume(self) -> None:
        if self.closed:
            return
        self._ready = True
        if self._held:
            self._join()
            held, self._held = self._held, []
            self._first, *self._more = (i if isinstance(i, bytes) else i.frame for i in held)
            self.flush()
        elif self._room is not None:
            self._room.set()

    def _hold(self, item: Delivery | bytes, size: int) -> None:
        if self.closed:
            return
        self._held.append(item)
        self.size += size
        if self.size > self._limit:
            self._join()
            if self.size > self._limit:
                self.close()
                self._overflow()

    def _join(self) -> None:
        held = self._held
        self._hold_only(join(held))
        if len(self._held) < len(held):
            self._scheduler.joined(len(held) - len(self._held))

    def _hold_only(self, items: list[Delivery | bytes]) -> None:
        self._held = items
        self.size = sum(len(i) if isinstance(i, bytes) else len(i.frame) for i in items)
