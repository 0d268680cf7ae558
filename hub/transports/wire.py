"""The way from an outbox to the network.

``HubProtocol`` is uvicorn's WebSocket protocol with its transport offered to the application by the
ASGI scope (``extensions["hub.wire"]``), so that ready frames are written with one call and a reader
that stalls can be aborted. On another ASGI server ``AsgiWriter`` (``asgi``) does what it can.
"""

import asyncio
from collections.abc import Callable
from random import random
from typing import Any, Final, Protocol

from websockets.frames import Frame

from hub.events.outbox import Writer
from hub.protocol.codec import close_reason
from hub.protocol.rfc6455 import LOST
from hub.transports.inbox import Gate, Inbox
from hub.transports.peer import BoundedSocket

ABORT_S: Final = 10.0
"""A peer that does not take our close frame in this time is cut off."""

SEND_S: Final = 10.0
"""A peer that takes nothing for this long, while the transport is full, is cut off."""

NO_PONG: Final = 4012


def _nothing(*_: object) -> None:
    pass


class ConnectionWriter(Writer, Protocol):
    opened: float
    """When the peer began to open the connection, by the loop's clock."""
    stalled: Callable[[], None]
    """Called when the transport was full for ``SEND_S`` and nothing left it."""

    def close(self, code: int, reason: str, *, heed: bool = True) -> object:
        """Send a close frame behind what was written. ``heed`` what the peer sends until it closes,
        too, or throw it away.
        """

    def abort(self) -> None:
        """Cut the peer off."""

    async def settled(self) -> None:
        """Return when the server may end the connection."""


class Wire:
    """A connection's transport, for one outbox.

    ``write`` is the transport's own until a close frame is sent, by whichever side: then it drops
    what it is given, as RFC 6455 section 5.5.1 has it.
    """

    __slots__ = ("_left", "_protocol", "_since", "_timer", "closing", "finished", "heard", "opened",
                 "paused", "ponged", "resumed", "stalled", "write")  # fmt: skip

    def __init__(self, protocol: "HubProtocol") -> None:
        self._protocol = protocol
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0
        self._since = 0.0
        self.opened = protocol.opened
        self.write: Callable[[bytes], object] = protocol.transport.write
        self.paused: Callable[[], None] = _nothing
        self.resumed: Callable[[], None] = _nothing
        self.finished: Callable[[], None] = _nothing
        self.stalled: Callable[[], None] = _nothing
        self.closing: Callable[[int], None] = _nothing
        """Told the code of a close that the connection did not ask for: a bad peer, no pong."""
        self.heard: Callable[[], None] = _nothing
        """Told that the peer has sent a frame that is no message, and costs us as much as one: a
        ping, a pong that was not asked for, a fragment.
        """
        self.ponged: Callable[[float], None] = _nothing
        """Told the seconds from a ping to its pong."""

    def close(self, code: int, reason: str, *, heed: bool = True) -> bool:
        """Send a close frame now, behind what was written, and cut the peer off if it lingers.

        Whether it was sent: the peer may have closed already, or the connection failed.
        """
        protocol = self._protocol
        if protocol.close_sent or protocol.disconnected or protocol.transport.is_closing():
            return False
        self.shut()
        protocol.conn.send_close(code, reason)
        protocol.transport.write(b"".join(protocol.conn.data_to_send()))
        protocol.close_sent = True
        protocol.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if not heed:
            protocol.part()
            return True
        protocol.continue_reading()
        # The timer stands for "we closed": the base class ends the connection when the peer's
        # close frame comes, and leaves it alone until then.
        protocol.close_timer = protocol.loop.call_later(ABORT_S, protocol.transport.abort)
        return True

    def abort(self) -> None:
        self.shut()
        self._protocol.transport.abort()

    def shut(self) -> None:
        """Nothing more is written."""
        self.write = _nothing
        self._stop_watch()
        self.finished()

    async def settled(self) -> None:
        """All of it is with the transport already."""

    # --- what the transport says ---

    def full(self) -> None:
        """The transport holds more than its high-water mark: watch whether the peer takes it."""
        self.paused()
        if self.write is not _nothing:
            self._left = self._protocol.transport.get_write_buffer_size()
            self._since = self._protocol.loop.time()
            self._watch()

    def drained(self) -> None:
        """The transport is below its low-water mark."""
        self._stop_watch()
        self.resumed()

    def _watch(self) -> None:
        self._timer = self._protocol.loop.call_later(SEND_S / 5, self._look)

    def _stop_watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        left, now = self._protocol.transport.get_write_buffer_size(), self._protocol.loop.time()
        if left < self._left:
            # Slow is not stalled: it has taken something.
            self._left, self._since = left, now
        if now - self._since >= SEND_S:
            self._timer = None
            self.stalled()
        else:
            self._watch()


class HubProtocol(BoundedSocket):
    """The bounded protocol with a ``Wire``, our close codes, and no traceback for a bad peer."""

    wire: Wire | None = None

    def __init__(self, *arguments: Any, opened: float | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.opened = self.loop.time() if opened is None else opened
        self.queue = Inbox()  # type: ignore[assignment]
        self.writable = Gate()  # type: ignore[assignment]

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.accept":
            # The scope has them; here they would be 3 KiB for as long as the connection lasts
            # (the parser keeps the request).
            self.request.headers.clear()
        elif message["type"] == "websocket.http.response.body" and self.close_sent:
            # A refusal completes the handshake; the base class would log it as our error.
            self.handshake_complete = True

    def handle_connect(self, event: Any) -> None:
        self.wire = Wire(self)
        super().handle_connect(event)
        if hasattr(self, "scope"):
            # The application's task has not begun to run yet.
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions["hub.wire"] = self.wire

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.wire is not None:
            self.wire.full()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.wire is not None:
            self.wire.drained()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.wire is not None:
            self.wire.shut()
            # The base class says 1005, as of a peer that has closed without a code. Whoever has
            # closed has said so before.
            self.queue.put_nowait({"type": "websocket.disconnect", "code": LOST})
        super().connection_lost(exc)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                # The base class logs a traceback for what is the peer's mistake.
                self.fail(1007, "invalid UTF-8")
                return
        super().send_receive_event_to_app()

    def start_keepalive(self) -> None:
        # Clients that came together, after a node's end say, are not pinged together for ever.
        if self.ping_interval:
            first = random() * self.ping_interval  # noqa: S311  # no secret
            self.ping_timer = self.loop.call_later(first, self.send_keepalive_ping)

    def handle_ping(self) -> None:
        super().handle_ping()
        self._heard()

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        self._heard()

    def handle_pong(self, event: Frame) -> None:
        awaited = self.pending_ping_payload
        super().handle_pong(event)
        if awaited is None or self.pending_ping_payload is not None:
            self._heard()
        elif self.wire is not None:
            self.wire.ponged(self.last_ping_rtt)

    def _heard(self) -> None:
        if self.wire is not None and not self.close_sent:
            self.wire.heard()

    def keepalive_timeout(self) -> None:
        self.pong_timer = None
        self.pending_ping_payload = None
        if self.wire is not None and self.wire.close(NO_PONG, close_reason(NO_PONG)):
            self.wire.closing(NO_PONG)
        if self.close_timer is not None:
            # It does not even answer pings: do not wait long for its close frame.
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(1.0, self.transport.abort)

    def handle_parser_exception(self) -> None:
        if self.wire is not None:
            self.wire.shut()
            if not self.close_sent and self.conn.close_sent is not None:
                self.wire.closing(self.conn.close_sent.code)
        super().handle_parser_exception()

    def shutdown(self) -> None:
        if self.wire is not None:
            self.wire.shut()
        super().shutdown()

    def eof_received(self) -> None:
        if self.wire is not None:
            self.wire.shut()
        super().eof_received()

    def handle_close(self, event: Frame) -> None:
        if self.wire is not None:
            self.wire.shut()
        super().handle_close(event)
        # A peer may close while a message of its own is still unread.
        self.continue_reading()
