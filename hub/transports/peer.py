"""uvicorn's two protocols, with bounds on what one peer can cost the others.

What the base classes would let a peer do, each of which has a test in ``tests/transports/hostile``:

- hold the event loop for as long as 256 KiB of tiny frames take to parse: 0.4 s, again and again;
- make a message of fragments without end, each of which costs memory though it carries no byte;
- have as many messages wait as 256 KiB can hold, while its credentials are looked at;
- ask for pongs that it does not read, which pile up beside the outbox;
- keep a connection that has ended for good, by not reading its last frame;
- end its half and read nothing more, so that what it has not read yet keeps the rest for good;
- lose the close code to a reset, because it was still sending when it was cut off;
- open a handshake that is refused without an answer, or one whose answer overtakes another's;
- send a header without end.
"""

import asyncio
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import State

from hub.faults import Fault

SLICE_BYTES: Final = 8_192
"""What is parsed in one turn of the event loop: some 1,300 of the smallest frames, 13 ms."""

LINGER_S: Final = 2.0
"""How long what a peer still sends is thrown away, so that it can read why it was cut off."""

LEAVE_S: Final = 10.0
"""A peer that does not take our answer to its close frame in this time is cut off."""

MAX_HEAD_BYTES: Final = 65_536
"""A request's head. httptools has no limit of its own."""

_CLOSE: Final = b"\x88"
_PONG: Final = b"\x8a"


def hang_up(loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> asyncio.TimerHandle:
    """End a connection so that the peer can read what was written last.

    Closing a socket with unread data resets it, and the peer loses what it has not read yet
    (RFC 9112 section 9.6). So the writing half goes first; the rest follows with the peer, or
    after ``LINGER_S``.
    """
    if not transport.is_closing() and transport.can_write_eof():
        transport.write_eof()
    else:
        transport.close()
    return loop.call_later(LINGER_S, transport.abort)


class BoundedSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, bounded."""

    _failed = False
    _pong = b""
    _unparsed = b""
    _parsing = False  # in a later turn of the loop

    # --- what comes in, a slice at a time ---

    def data_received(self, data: bytes) -> None:
        if self._failed:
            return
        if self._unparsed:
            # What the transport had read before it heard of the pause.
            self._unparsed += data
            self.transport.pause_reading()
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        if len(data) > SLICE_BYTES:
            data, self._unparsed = data[:SLICE_BYTES], data[SLICE_BYTES:]
            self.transport.pause_reading()
            self._parse_soon()
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self._refuse_handshake()

    def _parse_soon(self) -> None:
        if not self._parsing:
            self._parsing = True
            self.loop.call_soon(self._parse_on)

    def _parse_on(self) -> None:
        self._parsing = False
        if self.read_paused and not self.close_sent:
            return  # for as long as the messages before it wait
        data, self._unparsed = self._unparsed, b""
        if self._failed or self.transport.is_closing():
            return
        self._parse(data)
        if not (self._unparsed or self.read_paused or self.transport.is_closing()):
            self.transport.resume_reading()

    def continue_reading(self) -> None:
        """Read on after a pause for a message that was taken, or that nobody will take."""
        if self.read_paused:
            self.read_paused = False
            if self._unparsed:
                self._parse_soon()
            else:
                self.transport.resume_reading()

    async def receive(self) -> Any:
        message = await self.queue.get()
        if self.queue.empty():
            self.continue_reading()
        return message

    # --- the handshake ---

    def _refuse_handshake(self) -> None:
        """The base class leaves what is no valid request without an answer, and open."""
        answer = b"".join(self.conn.data_to_send())
        self.transport.write(answer or self.conn.reject(400, "No valid request.\n").serialize())
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        self.part()

    # --- messages and control frames ---

    def handle_cont(self, event: Frame) -> None:
        # What a message has cost is its bytes, however many fragments it came in; how many may come
        # is the application's to say, which is told of each (``wire``).
        if self.close_sent:
            return
        if not isinstance(self.frames[0], bytearray):
            self.frames[0] = bytearray(self.frames[0])  # type: ignore[call-overload]
        self.frames[0] += event.data
        if event.fin:
            self.frames[0] = bytes(self.frames[0])
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        if self._failed:
            return
        if self.writable.is_set():
            super().handle_ping()
            return
        # The peer does not read. It gets the last of its pongs when it does (RFC 6455 section
        # 5.5.3), and what else the parser answered now.
        answers = self.conn.data_to_send()
        self._pong = next((one for one in reversed(answers) if one[:1] == _PONG), self._pong)
        self.transport.write(b"".join(one for one in answers if one[:1] != _PONG))

    def resume_writing(self) -> None:
        if self._pong and not self.close_sent:
            self.transport.write(self._pong)
        self._pong = b""
        super().resume_writing()

    # --- the end ---

    def fail(self, code: int, reason: str) -> None:
        """End the connection for what the peer sent. Nothing, if it is ending already."""
        if self.close_sent:
            self.frames = []
            return
        if self.conn.state is State.OPEN:
            self.conn.fail(code, reason)
        # The parser is ahead of us: it has read the peer's close frame behind what is wrong,
        # and echoed it. Unless the echo is on its way already, what is wrong comes first.
        elif any(answer[:1] == _CLOSE for answer in self.conn.data_to_send()):
            self.conn.close_sent = Close(code, reason)
            frame = Frame(Opcode.CLOSE, self.conn.close_sent.serialize())
            self.transport.write(frame.serialize(mask=False))
        self.handle_parser_exception()

    def handle_close(self, event: Frame) -> None:
        super().handle_close(event)
        self._leaves()

    def eof_received(self) -> None:
        super().eof_received()
        if self.handshake_complete:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006, "reason": ""})
        self._leaves()

    def _leaves(self) -> None:
        """The transport is closing, once the peer has taken what was written, if it ever does."""
        if self.close_timer is None:
            self.close_timer = self.loop.call_later(LEAVE_S, self.transport.abort)

    def handle_parser_exception(self) -> None:
        """The peer has broken the protocol, and the parser has failed the connection."""
        close = self.conn.close_sent
        code, reason = (1006, "") if close is None else (close.code, close.reason)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.part()

    def part(self) -> None:
        """End the connection behind what was written, whatever the peer still sends."""
        self._failed = True
        self._unparsed = b""
        self.frames = []
        if self.close_timer is not None:
            self.close_timer.cancel()
        # Set, it also keeps the base class from closing when the application returns.
        self.close_timer = hang_up(self.loop, self.transport)
        # Reading goes on in any case, to see the peer's end.
        self.read_paused = False
        if not self.transport.is_closing():
            self.transport.resume_reading()


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol, bounded."""

    _unfinished = 0
    """Bytes since the parser last had something whole."""
    _ended = False

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self._unfinished += len(data)
        super().data_received(data)
        if self._unfinished > MAX_HEAD_BYTES and not self._ended:
            self._refuse(431, f"A request's head has {MAX_HEAD_BYTES} bytes at most.")

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished = 0
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            super().handle_websocket_upgrade()
            return
        # Requests before it are still being answered: those answers would run into our frames. The
        # connection ends after them instead.
        self._ended = True
        self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _refuse(self, status: int, message: str) -> None:
        self._ended = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                # The answers to what came before are owed first.
                cycle.keep_alive = False
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started or self.pipeline:
                self.transport.abort()
                return
        body = orjson.dumps({"error": Fault("invalid_request", message).body()})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        hang_up(self.loop, self.transport)
