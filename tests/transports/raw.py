"""A WebSocket peer that does nothing by itself: no pong, no close, no reading ahead."""

import asyncio
import base64
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

TEXT, CLOSE, PING = 1, 8, 9


class RawPeer:
    """Reads frames one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload. Raises IncompleteReadError at the end."""
        async with asyncio.timeout(8):
            first, size = await self._reader.readexactly(2)
            if size >= 126:
                size = int.from_bytes(
                    await self._reader.readexactly(2 if size == 126 else 8), "big"
                )
            return first & 15, await self._reader.readexactly(size)

    async def until(self, opcode: int) -> bytes:
        """The payload of the next frame of this kind."""
        while True:
            kind, payload = await self.frame()
            if kind == opcode:
                return payload

    async def end(self) -> bytes:
        """What comes until the connection's end. A reset is an end."""
        try:
            async with asyncio.timeout(8):
                return await self._reader.read()
        except ConnectionError:
            return b""


@asynccontextmanager
async def raw_peer(
    ws_url: str,
    token: str | None,
    *headers: str,
    behind: bytes = b"",
    receive_bytes: int | None = None,
) -> AsyncIterator[RawPeer]:
    """A connection after its handshake; ``behind`` is sent with it, without waiting, and the kernel
    takes ``receive_bytes`` for it, about, that are not read.
    """
    place = urlsplit(ws_url)
    with socket.socket() as connection:
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.setblocking(False)
        address = (str(place.hostname), int(place.port or 0))
        await asyncio.get_running_loop().sock_connect(connection, address)
        reader, writer = await asyncio.open_connection(sock=connection.dup())
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        f"GET {place.path} HTTP/1.1",
        f"Host: {place.netloc}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: agenthub.v1",
        *([] if token is None else [f"Authorization: Bearer {token}"]),
        *headers,
    )
    writer.write("\r\n".join((*lines, "", "")).encode() + behind)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101"), head
    try:
        yield RawPeer(reader, writer)
    finally:
        writer.transport.abort()
