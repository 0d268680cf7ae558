"""Outboxes: what waits to be written to a connection, bounded, and written in one go.

While the transport takes what it is given, an outbox is a list of what came in this turn, and one
``FlushScheduler`` per process writes each that became dirty in a turn of the event loop with one
call at the turn's end: the frames of a turn cost one system call, and no connection has a task of
its own on the send path. Fan-out, which does the same for the events of a turn, spares the way
through here (``write``). When the transport is full, what comes is held, and deltas of one message
are joined (``span``).
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from hub.events.delivery import Delivery
from hub.events.span import Spans
from hub.protocol.limits import OUTBOX_BYTES

REPLAY_BYTES: Final = OUTBOX_BYTES // 4
"""A replay waits while more than this is queued, so that live events find room."""
REFILL_BYTES: Final = OUTBOX_BYTES // 16
"""What a transport that has room again is given at once of what was held for it: all of that would
be as much again as may wait, where nobody counts it.
"""


class Writer(Protocol):
    """The way out of a connection. ``write`` never blocks.

    When the transport is full it calls ``paused``, and ``resumed`` when it takes more again; in
    between nothing is written. When nothing is written any more at all, it calls ``finished``.
    """

    paused: Callable[[], None]
    resumed: Callable[[], None]
    finished: Callable[[], None]

    @property
    def write(self) -> Callable[[bytes], object]:
        """Hand ready frames to the transport."""


class Owner(Protocol):
    """Whose outbox it is. What it is told, it is told on the loop; it must not block or raise."""

    def overflowed(self) -> None:
        """Too much waits, and the outbox has dropped it: close the connection with 4008."""

    def failed(self) -> None:
        """What was to be written is lost: close the connection, so that it is resumed."""

    def turned(self) -> None:
        """``Outbox.write`` is another now."""


class FlushScheduler:
    """Writes every outbox that became dirty in a turn of the loop, at the end of that turn.

    ``joined`` is told how many deliveries were joined into others for readers that are slow.
    """

    def __init__(self, joined: Callable[[int], None] = lambda count: None) -> None:
        self.dirty: list[Outbox] = []
        self.joined = joined

    def wake(self) -> None:
        """There is a first dirty outbox in this turn."""
        asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write them now."""
        dirty, self.dirty = self.dirty, []
        for outbox in dirty:
            outbox.flush()


def broken(error: Exception) -> None:
    """Something has failed that cannot, which must not cost others their frames: report it."""
    asyncio.get_running_loop().call_exception_handler(
        {"message": "Events could not be delivered", "exception": error}
    )


class Outbox:
    """What waits for one connection; ``size`` is the bytes of it.

    When more than ``limit`` bytes are held for a full transport, deltas joined, the outbox drops
    what it holds, takes no more, and says so to its owner.
    """

    __slots__ = ("_held", "_limit", "_owner", "_ready", "_room", "_scheduler", "_waiting",
                 "_writer", "closed", "size")  # fmt: skip

    def __init__(
        self,
        writer: Writer,
        scheduler: FlushScheduler,
        owner: Owner,
        limit: int = OUTBOX_BYTES,
    ) -> None:
        self._writer = writer
        self._scheduler = scheduler
        self._owner = owner
        self._limit = limit
        self._waiting: list[Delivery | bytes] = []  # for the end of this turn
        self._held: Spans | None = None  # for as long as the transport is full
        self._ready = True
        self._room: asyncio.Event | None = None
        self.size = 0
        self.closed = False
        writer.paused = self._pause
        writer.resumed = self._resume
        writer.finished = self.close

    @property
    def write(self) -> Callable[[bytes], object] | None:
        """The transport's own way to take ready frames, while there is nothing else to do for them;
        else None. The owner is told when it is another.

        It spares fan-out a call for each event and subscriber. Who uses it flushes the scheduler
        before, or what was put here is overtaken.
        """
        return self._writer.write if self._ready else None

    def deliver(self, delivery: Delivery) -> None:
        """Queue an event."""
        if self._ready:
            self._give(delivery, len(delivery.frame))
        else:
            self._hold(delivery)

    def put(self, frame: bytes) -> None:
        """Queue a ready frame."""
        if self._ready:
            self._give(frame, len(frame))
        else:
            self._hold(frame)

    def _give(self, item: Delivery | bytes, size: int) -> None:
        if not self._waiting:
            dirty = self._scheduler.dirty
            if not dirty:
                self._scheduler.wake()
            dirty.append(self)
        self._waiting.append(item)
        self.size += size
        if self.size > self._limit:
            self.flush()

    def flush(self) -> None:
        """Write what waits, unless the transport is full."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        self.size = 0
        self._send(waiting)
        if self._room is not None:
            self._room.set()

    def _send(self, items: list[Delivery | bytes]) -> None:
        frames = [item if isinstance(item, bytes) else item.frame for item in items]
        try:
            self._writer.write(frames[0] if len(frames) == 1 else b"".join(frames))
        except Exception as error:
            broken(error)
            self._fail()

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
        """Drop the events of a channel that wait: its subscription has ended."""
        if self._held is not None:
            self._held.forget(channel)
            self.size = self._held.size
        elif self._waiting:
            kept = [i for i in self._waiting if isinstance(i, bytes) or i.channel != channel]
            self._waiting = kept
            self.size = sum(len(i) if isinstance(i, bytes) else len(i.frame) for i in self._waiting)

    def close(self) -> None:
        """Drop what waits and take no more. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._ready = False
        self._waiting = []
        self._held = None
        self.size = 0
        if self._room is not None:
            self._room.set()
        self._owner.turned()

    def _fail(self) -> None:
        """Something could not be written: nothing may follow it."""
        self.close()
        # Later: who is told goes on to write, which fails in the midst of the others again.
        asyncio.get_running_loop().call_soon(self._owner.failed)

    # --- while the transport is full ---

    def _pause(self) -> None:
        if not self._ready:
            return
        self._ready = False
        self._held = Spans()
        # What waits for the end of this turn is held, too: somebody else has written meanwhile.
        for item in self._waiting:
            self._held.add(item)
        self._waiting = []
        self.size = self._held.size
        self._owner.turned()

    def _resume(self) -> None:
        if self.closed or self._held is None:
            return
        held, self._held = self._held, None
        self._ready = True
        if held.joined:
            self._scheduler.joined(held.joined)
            held.joined = 0
        while held and self._ready:
            self._send(held.take(REFILL_BYTES))
        if self.closed:
            return
        if held:  # it is full again
            self._held = held
        self.size = held.size
        if self._room is not None:
            self._room.set()
        if self._ready:  # what was held may have filled it again
            self._owner.turned()

    def _hold(self, item: Delivery | bytes) -> None:
        held = self._held
        if held is None:
            return  # closed
        held.add(item)
        self.size = held.size
        if held.size > self._limit:
            self.close()
            self._owner.overflowed()
