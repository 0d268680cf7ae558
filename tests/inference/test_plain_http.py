"""The transport to plain HTTP servers: every framing, and no surprise from a broken server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.inference.plain_http import BODY, Chunks, PlainHttp

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Answering:
    """A server that answers each request with the next of ``answers``, byte for byte, and closes
    the connection after an answer that is followed by None.
    """

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.left = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) and self.answers:
                self.requests.append(head)
                answer = self.answers.pop(0)
                assert answer is not None
                writer.write(answer)
                await writer.drain()
                if self.answers and self.answers[0] is None:
                    self.answers.pop(0)
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()


@asynccontextmanager
async def answering(*answers: bytes | None) -> AsyncIterator[tuple[Answering, httpx.AsyncClient]]:
    server = Answering(*answers)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    client = httpx.AsyncClient(base_url=server.url, transport=PlainHttp(), timeout=5)
    try:
        yield server, client
    finally:
        await client.aclose()
        listener.close()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi"),
        (b"HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", ""),
        (CHUNKED + b"2\r\nhi\r\nA;name=value\r\n, everyone\r\n0\r\n\r\n", "hi, everyone"),
        (CHUNKED + b"2\r\nhi\r\n0\r\nDigest: x\r\n\r\n", "hi"),
        (CHUNKED + b"30000\r\n" + b"x" * 0x30000 + b"\r\n0\r\n\r\n", "x" * 0x30000),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
    ],
    ids=["length", "nothing", "chunks", "trailers", "large", "continue", "bodiless"],
)
async def test_a_body_is_read_as_it_is_framed_and_its_connection_kept(
    answer: bytes, text: str
) -> None:
    async with answering(answer, answer) as (server, client):
        for _ in range(2):
            assert (await client.get("/")).text == text
        assert server.connections == 1


async def test_a_body_without_a_length_goes_to_the_end() -> None:
    answer = b"HTTP/1.0 200 OK\r\n\r\nall of it"
    async with answering(answer, None, answer, None) as (server, client):
        for _ in range(2):
            assert (await client.get("/")).text == "all of it"
        assert server.connections == 2


async def test_an_answer_to_head_has_no_body() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n"
    async with answering(answer, answer) as (_, client):
        assert (await client.head("/")).headers["content-length"] == "17"
        assert (await client.head("/")).status_code == 200


async def test_a_server_that_says_close_is_not_asked_on_that_connection_again() -> None:
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
    async with answering(closing, closing) as (server, client):
        for _ in range(2):
            assert (await client.get("/")).text == "hi"
        assert server.connections == 2


async def test_a_connection_that_was_closed_while_idle_is_replaced() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    async with answering(answer, None, answer) as (server, client):
        for _ in range(2):
            assert (await client.post("/", content=b"body")).text == "hi"
        assert server.connections == 2


async def test_a_request_is_not_repeated_once_an_answer_began() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    async with answering(whole, b"HTTP/1.1 2", None, whole) as (server, client):
        await client.get("/")
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")
        assert len(server.requests) == 2


async def test_leaving_a_body_unread_leaves_the_server() -> None:
    async with answering(CHUNKED + b"2\r\nhi\r\n") as (server, client):
        async with client.stream("GET", "/") as answer:
            assert await anext(answer.aiter_raw()) == b"hi"
        await asyncio.wait_for(server.left.wait(), 2)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 two OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi",
        CHUNKED + b"2\r\nhi\r\n",
        CHUNKED + b"2\r\nhigh\r\n0\r\n\r\n",
        CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n",
        CHUNKED + b"0x2\r\nhi\r\n0\r\n\r\n",
        CHUNKED + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        CHUNKED + b"1" * 100_000,
    ],
)
async def test_a_broken_answer_is_a_protocol_error(answer: bytes) -> None:
    async with answering(answer, None) as (_, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda noise: CHUNKED + noise)))
def test_no_noise_raises_anything_but_httpxs_errors(noise: bytes) -> None:
    async def hear() -> None:
        async with answering(noise, None) as (_, client):
            with suppress(httpx.HTTPError):
                await client.get("/")

    asyncio.run(hear())


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=5),
    st.lists(st.integers(min_value=1, max_value=40)),
    st.binary(max_size=3),
)
def test_chunks_are_the_same_body_in_whatever_pieces_they_come(
    body: list[bytes], cuts: list[int], beyond: bytes
) -> None:
    data = b"".join(b"%x;name=value\r\n%s\r\n" % (len(chunk), chunk) for chunk in body)
    data += b"0\r\nDigest: x\r\n\r\n"
    end = len(data)
    data += beyond
    chunks, got, at = Chunks(), b"", 0
    for size in (*cuts, len(data)):
        assert chunks.ended == (at >= end)
        if chunks.ended:
            break
        got += chunks.feed(data[at : at + size])
        at += size
    assert got == b"".join(body)
    assert chunks.ended
    assert chunks.beyond == (min(at, len(data)) > end)


async def test_what_has_come_is_read_at_once_and_together() -> None:
    whole = CHUNKED + b"2\r\nhi\r\n2\r\n, \r\n8\r\neveryone\r\n"
    async with answering(whole) as (_, client), client.stream("GET", "/") as answer:
        body = answer.extensions[BODY]
        assert await body.read() == b"hi, everyone"


async def test_a_server_that_says_more_than_its_answer_is_not_asked_on_that_connection() -> None:
    more = CHUNKED + b"2\r\nhi\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    async with answering(more, whole) as (server, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")
        assert (await client.get("/")).text == "hi"
        assert server.connections == 2


async def test_nobody_there_is_a_connect_error() -> None:
    async with answering() as (server, _):
        gone = server.url
    async with httpx.AsyncClient(transport=PlainHttp()) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(gone)


async def test_a_header_cannot_bring_another_along() -> None:
    async with answering(b"") as (server, client):
        with pytest.raises(httpx.LocalProtocolError):
            await client.get("/", headers={"x": "1\r\nhost: other"})
        assert not server.requests
