"""One stream of server-sent events: what waits for it, and the response that it is.

Unlike a socket's, what waits is written by tasks of the stream's own, as plain ASGI has it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from hub.events.delivery import Delivery
from hub.events.outbox import REPLAY_BYTES
from hub.events.span import Spans
from hub.faults import Fault
from hub.identity.access.authority import NoStanding
from hub.protocol.limits import OUTBOX_BYTES
from hub.rbac.actor import Actor
from hub.transports.seats import Seated
from hub.transports.wire import ABORT_S

MEDIA_TYPE: Final = "text/event-stream"
HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}

_LOOK_S: Final = 0.25
"""How often a stream whose client takes nothing looks whether it has ended."""


def why(fault: Fault) -> str:
    """The reason of a stream's end by this fault."""
    return fault.why if isinstance(fault, NoStanding) else fault.reason


class StreamReader:
    """A channel's reader whose events wait for an HTTP response."""

    write = None

    def __init__(self, channel: str, seated: Seated, count_joined: Callable[[int], None]) -> None:
        self.channel = channel
        self.seated = seated
        self._count_joined = count_joined
        self._waiting = Spans()
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self.end: str | None = None
        self.doubtful = False

    def deliver(self, delivery: Delivery) -> None:
        self.put(delivery)

    def put(self, item: Delivery | bytes) -> None:
        """Queue an event, or a chunk that is no event of the channel."""
        if self.end is None:
            self._waiting.add(item)
            if self._waiting.size > OUTBOX_BYTES:
                self.end = "too_slow"
                self._waiting = Spans()
        self._changed.set()

    @property
    def waiting(self) -> int:
        """Bytes that wait for the response to take them."""
        return self._waiting.size

    async def room(self) -> None:
        while self._waiting.size > OUTBOX_BYTES // 4 and self.end is None:
            self._drained.clear()
            await self._drained.wait()

    def ended(self, channel: str, reason: str) -> None:
        self.end = reason
        self._changed.set()
        self._drained.set()

    def standing(self, found: Actor | Fault) -> None:
        self.doubt()

    def told(self, left_s: float) -> None:
        """A stream's end says all that there is to say."""

    def leave(self) -> None:
        """The node is going away: the client resumes elsewhere."""
        self.ended("", "draining")

    leave_now = leave

    def doubt(self) -> None:
        """The permissions may have changed: let the stream check its own."""
        self.doubtful = True
        self._changed.set()

    async def next(self, timeout_s: float) -> bytes | None:
        """What waits, a part at a time where it is much; None if nothing came in time."""
        if not self._waiting and self.end is None and not self.doubtful:
            self._changed.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                return None
        waiting = self._waiting
        if waiting.joined:
            self._count_joined(waiting.joined)
            waiting.joined = 0
        taken = waiting.take(REPLAY_BYTES)
        self._drained.set()
        return b"".join(item if isinstance(item, bytes) else item.sent for item in taken)


class EventResponse(StreamingResponse):
    """A stream that lets go of its channel even when the client has left before it began.

    A client that does not take what it is sent is cut off after ``ABORT_S``, or at once when the
    stream ends.
    """

    def __init__(
        self,
        content: AsyncIterator[bytes],
        reader: StreamReader,
        still_allowed: Callable[[], Awaitable[None]],
        release: Callable[[], None],
    ) -> None:
        super().__init__(content, headers=HEADERS, media_type=MEDIA_TYPE)
        self._reader = reader
        self._still_allowed = still_allowed
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        abort = scope.get("extensions", {}).get("hub.abort")

        async def within(message: Message) -> None:
            sending = asyncio.ensure_future(send(message))
            try:
                if await self._taken(sending):
                    return
                if abort is None:
                    body.cancel()
                else:
                    abort()
                    await asyncio.wait({sending}, timeout=1.0)  # it ends with the connection
            finally:
                sending.cancel()

        body = asyncio.create_task(super().__call__(scope, receive, within))
        try:
            await asyncio.wait({body})
        finally:
            try:
                if not body.done():
                    body.cancel()
                    await asyncio.wait({body})
            finally:
                self._release()
        if not body.cancelled():
            body.result()

    async def _taken(self, sending: asyncio.Future[None]) -> bool:
        """Whether the client took what was sent, before it was too slow or the stream's end."""
        reader, loop = self._reader, asyncio.get_running_loop()
        due = loop.time() + ABORT_S
        while not (await asyncio.wait({sending}, timeout=_LOOK_S))[0]:
            if reader.doubtful:
                reader.doubtful = False
                try:
                    await self._still_allowed()
                except Fault as fault:
                    reader.end = why(fault)
            if reader.end is not None or loop.time() >= due:
                reader.end = reader.end or "too_slow"
                return False
        sending.result()
        return True
