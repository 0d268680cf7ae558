"""A transport for httpx that does HTTP/1.1 without TLS, and little else, on asyncio's streams.

The usual one (httpcore, h11, anyio) takes half of the processor time of a token that arrives from
a model server. This one reads what such servers send: a status, headers, and a body in chunks, of
a given length, or up to the end (RFC 9112, sections 6 and 7).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final

import httpx

LONGEST_HEAD: Final = 64 * 1024
MOST_IDLE: Final = 32
"""Connections kept for later; there is no bound on those in use."""

BODY: Final = "hub.body"

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
        body = Body(self, connection, head, bodiless=request.method == "HEAD")
        return httpx.Response(
            head.status_code, headers=head.headers, stream=body, extensions={BODY: body}
        )

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


class Body(httpx.AsyncByteStream):
    """The body of an answer. Closed before its end, it closes the connection, which tells the
    server to stop. Also in its response's ``extensions``, as ``BODY``, to be read without the
    generators that httpx lays around it.
    """

    def __init__(
        self, pool: PlainHttp, connection: _Connection, head: httpx.Response, *, bodiless: bool
    ) -> None:
        self._pool, self._connection, self._reader = pool, connection, connection.reader
        self._head = head
        self._bodiless = bodiless or head.status_code in _BODILESS
        self._ended = False
        self._left = 0
        self._chunks = Chunks()
        self._more = self._framed()

    def _framed(self) -> Callable[[], Coroutine[Any, Any, bytes]]:
        headers = self._head.headers
        if self._bodiless:
            return self._of_length
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._in_chunks
        if "content-length" in headers:
            length = headers["content-length"]
            # A length that is none is told when the body is read, as all that is broken in it.
            self._left = int(length) if length.isdecimal() and length.isascii() else -1
            return self._of_length
        return self._to_the_end

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        while piece := await self.read():
            yield piece

    async def read(self) -> bytes:
        """What has come of it, as soon as something has; nothing when it is over.

        Raises httpx.RemoteProtocolError.
        """
        if self._ended:
            return b""
        try:
            piece = await self._more()
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise httpx.RemoteProtocolError("the server broke off its answer") from error
        except ValueError as error:
            raise httpx.RemoteProtocolError("the answer is not framed as HTTP says") from error
        if not piece:
            self._ended = True
        return piece

    async def _in_chunks(self) -> bytes:
        chunks = self._chunks
        while not chunks.ended:
            if piece := chunks.feed(await self._some(_PIECE)):
                return piece
        if chunks.beyond:
            raise ValueError("the server says more than its answer")
        return b""

    async def _of_length(self) -> bytes:
        if self._left < 0:
            raise ValueError("the length of the body is no number")
        if not self._left:
            return b""
        piece = await self._some(min(self._left, _PIECE))
        self._left -= len(piece)
        return piece

    async def _some(self, most: int) -> bytes:
        data = await self._reader.read(most)
        if not data:
            raise asyncio.IncompleteReadError(data, None)
        return data

    async def _to_the_end(self) -> bytes:
        return await self._reader.read(_PIECE)

    async def aclose(self) -> None:
        headers, version = self._head.headers, self._head.extensions["http_version"]
        lasting = version == b"HTTP/1.1" and headers.get("connection", "").lower() != "close"
        framed = self._bodiless or "content-length" in headers or "transfer-encoding" in headers
        self._pool.done_with(self._connection, reusable=self._ended and lasting and framed)
        self._more = _nothing  # and no circle that a garbage collection has to find


class Chunks:
    """The body in a chunked message (RFC 9112, section 7.1), as it comes in pieces. Pure."""

    def __init__(self) -> None:
        self.ended = False
        self.beyond = False
        """Whether bytes came that belong to no chunk."""
        self._held = b""
        self._left = 0
        self._line: Callable[[bytes], None] = self._begin

    def feed(self, data: bytes) -> bytes:
        """What of the body is in ``data``. Raises ValueError where it is not framed so."""
        found: list[bytes] = []
        data, at = self._held + data, 0
        self._held = b""
        while not self.ended:
            if self._left:
                piece = data[at : at + self._left]
                if not piece:
                    break
                found.append(piece)
                at += len(piece)
                self._left -= len(piece)
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._held = data[at:]
                if len(self._held) > LONGEST_HEAD:
                    raise ValueError("a line does not end")
                break
            self._line(data[at:end])
            at = end + 2
        self.beyond = self.ended and at < len(data)
        return found[0] if len(found) == 1 else b"".join(found)

    def _begin(self, line: bytes) -> None:
        self._left = _size(line)
        self._line = self._finish if self._left else self._trail

    def _finish(self, line: bytes) -> None:
        if line:
            raise ValueError("a chunk is longer than it said")
        self._line = self._begin

    def _trail(self, line: bytes) -> None:
        if not line:
            self.ended = True
            self._line = _ignore


def _ignore(line: bytes) -> None:
    pass


async def _nothing() -> bytes:
    return b""


def _size(line: bytes) -> int:
    # Not int(line, 16), which takes "-5", "0x5" and "5_0".
    digits = line.split(b";", 1)[0].strip()
    if not digits or digits.strip(b"0123456789abcdefABCDEF") or len(digits) > 15:
        raise ValueError("a chunk does not begin with its size")
    return int(digits, 16)


def _written(request: httpx.Request, body: bytes) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw]
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise httpx.LocalProtocolError("a header of the request has a line break")
    return b"\r\n".join((*lines, b"", body))
