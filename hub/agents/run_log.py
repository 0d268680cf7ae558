"""The pen of one run: what it says, appended in order to its conversation's log.

Text is queued, and one task appends it: while an append is under way, further deltas of the same
message gather and go as one event. An append whose outcome is unknown (the backplane went away) is
looked up in the log before it is tried again, so that nothing is said twice.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from hub.backplane.interface import LOG_MAX_BYTES, Appended, Backplane, Lease, Position
from hub.events.vocabulary import reasoning_content, text_content
from hub.faults import Fault
from hub.telemetry.metrics import Metrics

PATIENCE_S: Final = 60.0
"""How long a run waits for a backplane that is away, before it fails."""
RETRY_S: Final = 0.25
BACK_S: Final = 1.0
"""How often a run that says nothing looks whether a backplane that was away is back."""
QUEUED_BYTES: Final = 1024 * 1024
"""Text that may wait for the backplane; beyond it the model is read no further."""
DELTA_BYTES: Final = 32 * 1024
"""Text that is joined into one event; a longer one could not be delivered whole."""
_PIECE_CHARS: Final = DELTA_BYTES // 4
"""Of a longer text is said so much at once: no character has more than 4 bytes."""
RESTATE_EVERY: Final = 4_000
"""Entries after which the run's state is said again, so that a trimmed log can still be read."""
RESTATE_BYTES: Final = LOG_MAX_BYTES // 3
"""The same for the bytes of entries, by which a log in memory is trimmed."""


@dataclass(slots=True)
class _Delta:
    message_id: str
    reasoning: bool
    parts: list[str]
    size: int

    def encode(self) -> bytes:
        encode = reasoning_content if self.reasoning else text_content
        return encode(self.message_id, "".join(self.parts))


@dataclass(slots=True)
class _Event:
    data: bytes
    key: str | None
    whole: bool


class RunLog:
    """Appends a run's events. Use as a context manager; ``restate`` is asked for when due.

    Failures (LeaseLost, Fault) are raised by the next call. ``needs_restating`` turns true when
    the log was lost, has another one in its place or has grown far; the owner then says a
    ``MESSAGES_SNAPSHOT``. ``shared``: what was said last is in the log that all nodes read.
    """

    def __init__(self, backplane: Backplane, channel: str, lease: Lease, metrics: Metrics) -> None:
        self._backplane = backplane
        self._channel = channel
        self._lease = lease
        self._appended = metrics.events_appended
        self._queue: deque[_Delta | _Event] = deque()
        self._queued_bytes = 0
        self._busy = False
        """Whether something waits, or its append is under way."""
        self._rest: asyncio.Future[None] | None = None
        self._settling: list[asyncio.Future[None]] = []
        self._failure: BaseException | None = None
        self._at: Position | None = None
        self._since_restated = 0
        self._bytes_since_restated = 0
        self._task: asyncio.Task[None] | None = None
        self.on_failure: Callable[[], None] | None = None
        self._due = asyncio.Event()
        self.shared = True

    async def __aenter__(self) -> "RunLog":
        self._task = asyncio.create_task(self._pump())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        # What was under way knows its log, and the log its owner: without this a run's memory
        # would wait for a full garbage collection.
        self._task = self._rest = self.on_failure = None

    def text(self, message_id: str, delta: str, *, reasoning: bool = False) -> None:
        """Say more of a message. Queued; joined with what still waits of the same message."""
        self._raise_failure()
        size = len(delta) if delta.isascii() else len(delta.encode())
        if size <= DELTA_BYTES:
            self._put(message_id, delta, size, reasoning=reasoning)
        else:
            for at in range(0, len(delta), _PIECE_CHARS):
                piece = delta[at : at + _PIECE_CHARS]
                self._put(message_id, piece, len(piece.encode()), reasoning=reasoning)
        self._queued_bytes += size
        self._rouse()

    def _put(self, message_id: str, delta: str, size: int, *, reasoning: bool) -> None:
        last = self._queue[-1] if self._queue else None
        if (
            isinstance(last, _Delta)
            and last.message_id == message_id
            and last.size + size <= DELTA_BYTES
        ):
            last.parts.append(delta)
            last.size += size
        else:
            self._queue.append(_Delta(message_id, reasoning, [delta], size))

    def say(self, *events: bytes, key: str | None = None, whole: bool = False) -> None:
        """Say events. ``key``: the same key again says nothing (one event only). ``whole``: it says
        the whole state again.
        """
        self._raise_failure()
        self._queue.extend(_Event(data, key, whole) for data in events)
        self._rouse()

    @property
    def crowded(self) -> bool:
        """Whether so much waits that the model should be read no further for now."""
        return self._queued_bytes > QUEUED_BYTES

    async def settled(self) -> None:
        """Return when all that was said is in the log. Raises what went wrong."""
        if self._busy:
            done = asyncio.get_running_loop().create_future()
            self._settling.append(done)
            await done
        self._raise_failure()

    def stand(self, at: Position) -> None:
        """Say where the log is before the first event, if it was read: an append whose outcome is
        unknown is looked up after there.
        """
        self._at = at

    @property
    def needs_restating(self) -> bool:
        return self._due.is_set()

    async def restating(self) -> None:
        """Return when it ``needs_restating``: also when what was said last is in this node's own
        log, and the backplane has come back without anything being said since.
        """
        while not self._due.is_set():
            try:
                async with asyncio.timeout(None if self.shared else BACK_S):
                    await self._due.wait()
            except TimeoutError:
                with suppress(Fault):
                    await self._backplane.ping()
                    self._due.set()

    def restated(self) -> None:
        """The state was said again: count anew."""
        self._due.clear()
        self._since_restated = 0
        self._bytes_since_restated = 0

    # --- the pump ---

    def _rouse(self) -> None:
        self._busy = True
        if self._rest is not None and not self._rest.done():
            self._rest.set_result(None)

    def _settle(self) -> None:
        self._busy = False
        for done in self._settling:
            if not done.done():
                done.set_result(None)
        self._settling.clear()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _pump(self) -> None:
        try:
            while True:
                if not self._queue:
                    self._settle()
                    # A bare future: an Event, which may have many who wait, costs twice as much.
                    self._rest = asyncio.get_running_loop().create_future()
                    await self._rest
                item = self._queue.popleft()
                if isinstance(item, _Delta):
                    self._queued_bytes -= item.size
                    data, key, whole = item.encode(), None, False
                else:
                    data, key, whole = item.data, item.key, item.whole
                self._note(await self._append(data, key, whole), len(data), whole)
        except asyncio.CancelledError:
            raise
        except Exception as failure:
            self._failure = failure
            self._queue.clear()
            self._settle()
            if self.on_failure is not None:
                self.on_failure()

    def _note(self, appended: Appended, size: int, whole: bool) -> None:
        self._appended.inc()
        self._since_restated += 1
        self._bytes_since_restated += size
        if self._since_restated >= RESTATE_EVERY or self._bytes_since_restated >= RESTATE_BYTES:
            self._due.set()
        moved = self._at is not None and appended.epoch != self._at.epoch
        if appended.restate or (moved and not whole):
            self._due.set()
        self.shared = appended.shared
        self._at = Position(appended.epoch, appended.seq)

    async def _append(self, data: bytes, key: str | None, whole: bool) -> Appended:
        try:
            return await self._backplane.append(
                self._channel, data, key=key, lease=self._lease, whole=whole
            )
        except Fault as fault:
            if fault.reason != "backend_unavailable":
                raise
        return await self._append_again(data, key, whole)

    async def _append_again(self, data: bytes, key: str | None, whole: bool) -> Appended:
        """Append after a failure: first find out whether the failed append did happen.

        The lease makes this run the only one that appends here what it appends.
        """
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            try:
                if self._at is not None:
                    page = await self._backplane.read(self._channel, self._at.seq)
                    if page.epoch == self._at.epoch:
                        for entry in page.entries:
                            if entry.data == data:
                                return Appended(page.epoch, entry.seq, True)
                return await self._backplane.append(
                    self._channel, data, key=key, lease=self._lease, whole=whole
                )
            except Fault as fault:
                if fault.reason != "backend_unavailable":
                    raise
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(RETRY_S)
