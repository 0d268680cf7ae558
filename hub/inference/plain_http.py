"""A transport for httpx that does HTTP/1.1 without TLS, and little else, on asyncio's streams.

The usual one (httpcore, h11, anyio) takes half of the processor time of a token that arrives from
a model server. This one reads what such servers send: a status, headers, and a body in chunks, of
a given length, or up to the end (RFC 9112, sections 6 and 7).
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

import httpx

LONGEST_HEAD: Final = 64 * 1024
MOST_IDLE: Final = 32
"""Connections kept for later; there is no bound on those in use."""

_PIECE: Final = 64 * 1024
_BODILESS: Final = (204, 304)

_Address = tuple[str, int]


class PlainHttp(httpx.AsyncBaseTransport):
    """Connections to ``http://`` addresses. Of httpx's timeouts it keeps the one for connecting;
    how long to wait for an answer is the caller's to say. Raises httpx's errors.
    """

    def __init__(self) -> None:
        self._idle: dict[_Address, list[_Connection]] = {}
        self._open: set[_Connection] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        address = (request.url.host, request.url.port or 80)
        data = _written(request, await request.aread())
        kept = self._kept(address)
        if kept is not None:
            try:
                return await self._exchange(kept, request, data)
            except _Stale:
                # The server closed it just as it was taken up again.
                pass
        fresh = await self._connect(address, request.extensions.get("timeout", {}).get("connect"))
        return await self._exchange(fresh, request, data)

    async def aclose(self) -> None:
        """Close all connections; answers on them break off."""
        for connection in tuple(self._open):
            self._drop(connection)

    def _kept(self, address: _Address) -> "_Connection | None":
        idle = self._idle.get(address, [])
        while idle:
            connection = idle.pop()
            if connection.is_usable():
                return connection
            self._drop(connection)
        return None

    async def _connect(self, address: _Address, seconds: float | None) -> "_Connection":
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_connection(*address, limit=LONGEST_HEAD)
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection within {seconds} s") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        connection = _Connection(address, reader, writer)
        self._open.add(connection)
        return connection

    async def _exchange(
        self, connection: "_Connection", request: httpx.Request, data: bytes
    ) -> httpx.Response:
        try:
            return await self._answer(connection, request, data)
        except BaseException:
            self._drop(connection)
            raise

    async def _answer(
        self, connection: "_Connection", request: httpx.Request, data: bytes
    ) -> httpx.Response:
        head = await connection.ask(data)
        while 100 <= head.status_code < 200:
            head = await connection.head()
        body = _Body(self, connection, head, bodiless=request.method == "HEAD")
        return httpx.Response(head.status_code, headers=head.headers, stream=body)

    def done_with(self, connection: "_Connection", *, reusable: bool) -> None:
        """Keep the connection for the next request, or drop it."""
        idle = self._idle.setdefault(connection.address, [])
        if reusable and connection in self._open and len(idle) < MOST_IDLE:
            idle.append(connection)
        else:
            self._drop(connection)

    def _drop(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        connection.writer.close()


class _Stale(httpx.RemoteProtocolError):
    """A connection that was used before ended without a byte of an answer."""


class _Connection:
    def __init__(
        self, address: _Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.address, self.reader, self.writer = address, reader, writer
        self._asked = 0

    def is_usable(self) -> bool:
        return not (self.reader.at_eof() or self.writer.is_closing())

    async def ask(self, data: bytes) -> httpx.Response:
        """Send a request; the status and headers that come back."""
        self._asked += 1
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError as error:
            raise self._broken(b"") from error
        return await self.head()

    async def head(self) -> httpx.Response:
        try:
            data = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            raise self._broken(error.partial) from error
        except (ConnectionError, asyncio.LimitOverrunError) as error:
            raise self._broken(b"") from error
        first, *lines = data[:-4].split(b"\r\n")
        version, _, rest = first.partition(b" ")
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest[:3].isdigit():
            raise httpx.RemoteProtocolError("the server does not speak HTTP/1.1")
        headers = []
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not name.isascii():
                raise httpx.RemoteProtocolError("the server sent a header that is none")
            headers.append((name, value.strip()))
        extensions = {"http_version": version}
        return httpx.Response(int(rest[:3]), headers=headers, extensions=extensions)

    def _broken(self, partial: bytes) -> httpx.RemoteProtocolError:
        kind = httpx.RemoteProtocolError if partial or self._asked < 2 else _Stale
        return kind("the server closed the connection without an answer")


class _Body(httpx.AsyncByteStream):
    """The body of an answer. Closed before its end, it closes the connection, which tells the
    server to stop.
    """

    def __init__(
        self, pool: PlainHttp, connection: _Connection, head: httpx.Response, *, bodiless: bool
    ) -> None:
        self._pool, self._connection, self._reader = pool, connection, connection.reader
        self._head = head
        self._bodiless = bodiless or head.status_code in _BODILESS
        self._ended = False

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in self._pieces():
                yield piece
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise httpx.RemoteProtocolError("the server broke off its answer") from error
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise httpx.RemoteProtocolError("the answer is not framed as HTTP says") from error
        self._ended = True

    def _pieces(self) -> AsyncGenerator[bytes, None]:
        headers = self._head.headers
        if self._bodiless:
            return self._of_length(0)
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._in_chunks()
        if "content-length" in headers:
            return self._of_length(int(headers["content-length"]))
        return self._to_the_end()

    async def _in_chunks(self) -> AsyncGenerator[bytes, None]:
        reader = self._reader
        while size := _size(await reader.readuntil(b"\r\n")):
            while size > _PIECE:
                yield await reader.readexactly(_PIECE)
                size -= _PIECE
            piece = await reader.readexactly(size + 2)
            if piece[-2:] != b"\r\n":
                raise ValueError("a chunk is longer than it said")
            yield piece[:-2]
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass

    async def _of_length(self, left: int) -> AsyncGenerator[bytes, None]:
        while left > 0:
            piece = await self._reader.readexactly(min(left, _PIECE))
            left -= len(piece)
            yield piece

    async def _to_the_end(self) -> AsyncGenerator[bytes, None]:
        while piece := await self._reader.read(_PIECE):
            yield piece

    async def aclose(self) -> None:
        headers, version = self._head.headers, self._head.extensions["http_version"]
        lasting = version == b"HTTP/1.1" and headers.get("connection", "").lower() != "close"
        framed = self._bodiless or "content-length" in headers or "transfer-encoding" in headers
        self._pool.done_with(self._connection, reusable=self._ended and lasting and framed)


def _size(line: bytes) -> int:
    # Not int(line, 16), which takes "-5", "0x5" and "5_0".
    digits = line[:-2].split(b";", 1)[0].strip()
    if not digits or digits.strip(b"0123456789abcdefABCDEF") or len(digits) > 15:
        raise ValueError("a chunk does not begin with its size")
    return int(digits, 16)


def _written(request: httpx.Request, body: bytes) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw]
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise httpx.LocalProtocolError("a header of the request has a line break")
    return b"\r\n".join((*lines, b"", body))
