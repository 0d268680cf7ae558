"""Messages between two processes of one program, over a socket that joins them.

A frame is the length of what follows (4 bytes, big-endian), and a message in MessagePack.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

import msgspec

_LENGTH: Final = 4


def framed(message: Any) -> bytes:
    """The frame of a message."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(_LENGTH, "big") + data


class Frames(asyncio.Protocol):
    """One end. ``await open()`` it; then ``said(message)`` is called for each message that comes,
    and ``lost()`` once, when the other side is gone or this one has closed.

    One that ``waits`` reads nothing while too much of what it has sent is not read. Of two ends one
    may do so: else both might, for ever.
    """

    def __init__(
        self,
        joint: socket.socket,
        said: Callable[[Any], None],
        lost: Callable[[], None],
        *,
        waits: bool = False,
    ) -> None:
        """``joint``: a socket that does not block."""
        self._joint = joint
        self._said = said
        self._lost = lost
        self._waits = waits
        self._come = bytearray()
        self._full = False
        self._transport: asyncio.Transport | None = None

    async def open(self) -> None:
        """Begin. Raises OSError."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=self._joint)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def unread(self) -> int:
        """Bytes that wait to be read by the other side."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def send(self, message: Any) -> None:
        """Send it, unless this is closed."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(framed(message))

    def close(self, *, at_once: bool = False) -> None:
        """Close it, when all that was sent has left, or ``at_once``. Idempotent."""
        if self._transport is not None:
            (self._transport.abort if at_once else self._transport.close)()
        else:
            self._joint.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    def data_received(self, data: bytes) -> None:
        self._come += data
        self._read()

    def pause_writing(self) -> None:
        if self._waits and self._transport is not None and self.is_open:
            self._full = True
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._full and self._transport is not None and self.is_open:
            self._full = False
            self._transport.resume_reading()
            self._read()

    def _read(self) -> None:
        come, at = self._come, 0
        while not self._full and len(come) - at >= _LENGTH:
            end = at + _LENGTH + int.from_bytes(come[at : at + _LENGTH], "big")
            if len(come) < end:
                break
            message = msgspec.msgpack.decode(bytes(come[at + _LENGTH : end]))
            at = end
            self._said(message)
        del come[:at]
