"""Socket: a WebSocket client so light that it does not measure itself."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, cast

CONNECT_S: Final = 30.0
AT_ONCE: Final = 50
"""Connections that are being made at a time."""

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Refused(Exception):
    """The server did not switch to WebSocket; the message is its answer's head."""


class Socket(asyncio.Protocol):
    """Counts the messages that come in, and gives them to ``heard`` if that is set; ``lost`` is
    told the payload of the server's close frame, empty without one.
    """

    __slots__ = (
        "_head", "_rest", "_told", "_transport", "closed", "heard", "lost", "messages", "opened",
    )  # fmt: skip

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self.messages = 0
        self.heard: Callable[[bytes], None] | None = None
        self.lost: Callable[[bytes], None] | None = None
        self._told = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = False

    def send(self, text: str) -> None:
        self._send(TEXT, text.encode())

    def stall(self) -> None:
        """Take nothing more from the kernel."""
        assert self._transport is not None
        self._transport.pause_reading()

    def close(self) -> None:
        """Cut the connection; what it had is lost."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance: uvloop's transports do not inherit.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._head)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if not self.opened.done():
            self.opened.set_exception(Refused("closed"))
        if self.lost is not None:
            self.lost(self._told)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at = 0
        if not self.opened.done():
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._rest = data
                return
            at = end + 4
            self._switched(data[:end])
        self._rest = data[self._frames(data, at) :]

    def _switched(self, head: bytes) -> None:
        if b" 101 " in head.split(b"\r\n", 1)[0]:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(Refused(head.decode("latin-1")))

    def _frames(self, data: bytes, at: int) -> int:
        """Take the whole frames of ``data`` from ``at`` on; where the rest begins."""
        end = len(data)
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                if start > end:
                    break
                size = int.from_bytes(data[at + 2 : start], "big")
            if start + size > end:
                break
            kind = data[at] & 15
            if kind == TEXT:
                self.messages += 1
                if self.heard is not None:
                    self.heard(data[start : start + size])
            elif kind == PING:
                self._send(PONG, data[start : start + size])
            elif kind == CLOSE:
                self._told = data[start : start + size]
                self.close()
            at = start + size
        return at

    def _send(self, kind: int, payload: bytes) -> None:
        assert self._transport is not None
        size = len(payload)
        if size < 126:
            head = bytes((0x80 | kind, 0x80 | size))
        else:
            head = bytes((0x80 | kind, 0xFE)) + size.to_bytes(2, "big")
        # A mask of zeros is a mask: RFC 6455 wants the bit, and the server does the work.
        self._transport.write(head + b"\0\0\0\0" + payload)


async def open_sockets(
    port: int,
    path: str,
    count: int,
    *,
    host: str = "127.0.0.1",
    subprotocol: str | None = None,
    tokens: list[str] | None = None,
) -> list[Socket]:
    """Open WebSockets, each with a token of the list in turn. Raises Refused, OSError."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Socket:
        headers = {}
        if subprotocol is not None:
            headers["Sec-WebSocket-Protocol"] = subprotocol
        if tokens:
            headers["Authorization"] = f"Bearer {tokens[number % len(tokens)]}"
        head = handshake(f"{host}:{port}", path, headers)
        async with gate, asyncio.timeout(CONNECT_S):
            loop = asyncio.get_running_loop()
            _, socket = await loop.create_connection(lambda: Socket(head), host, port)
            await socket.opened
            return socket

    return list(await asyncio.gather(*map(one, range(count))))


def handshake(host: str, path: str, headers: Mapping[str, str]) -> bytes:
    """The request that opens a WebSocket."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {_KEY}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join((*lines, "", "")).encode()


_KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3; nobody here checks the answer
