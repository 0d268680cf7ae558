"""Peers that ask for nothing, or never finish: they are let go, and nobody else notices."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from hub.transports import deadlines, http_wire
from hub.transports.deadlines import AT_ONCE, HEAD_S, LOOK_S, Deadline
from tests.interaction.drivers import eventually, open_socket
from tests.parts.hub import ServedHub, serving
from tests.parts.scripted import ScriptedModel
from tests.parts.standing import accounted

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(
    tmp_path_factory: pytest.TempPathFactory, scripted_model: ScriptedModel
) -> AsyncIterator[ServedHub]:
    """A hub that is impatient."""
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_wire, "HEAD_S", 0.3)
        patch.setattr(http_wire, "BODY_S", 0.6)
        patch.setattr(http_wire, "TAKE_S", 0.6)
        patch.setattr(deadlines, "LOOK_S", 0.05)
        hub = serving(folder / ".hub", OLLAMA_HOST=scripted_model.host)
        async with accounted(hub) as served:
            yield served


async def connected(hub: ServedHub) -> Stream:
    host, port = hub.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port), limit=1 << 26)


async def ended(stream: Stream) -> bytes:
    """What comes until the hub ends the connection, in any way."""
    reader, writer = stream
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def answered(stream: Stream) -> bytes:
    """The answer to a request whose connection is kept."""
    head = await stream[0].readuntil(b"\r\n\r\n")
    (size,) = (
        int(line.partition(b":")[2]) for line in head.splitlines() if b"content-length" in line
    )
    return head + await stream[0].readexactly(size)


async def test_a_silent_connection_is_gone_within_ten_seconds() -> None:
    assert HEAD_S + LOOK_S < 10


@pytest.mark.parametrize("said", [b"", b"G", HEAD, b"\r\n", b"GET /ws HTTP/1.1\r\nUpgrade: web"])
async def test_who_sends_no_whole_head_is_cut_off(hub: ServedHub, said: bytes) -> None:
    stream = await connected(hub)
    stream[1].write(said)
    assert await ended(stream) == b""


async def test_a_head_that_comes_byte_by_byte_has_no_more_time(hub: ServedHub) -> None:
    stream = await connected(hub)
    ending = asyncio.create_task(ended(stream))
    for byte in HEAD * 10:
        stream[1].write(bytes([byte]))
        done, _ = await asyncio.wait({ending}, timeout=0.05)
        if done:
            break
    assert ending.done()


@pytest.mark.parametrize("said", [b"\r\n", HEAD, b"\r\n" + HEAD])
async def test_a_kept_connection_has_no_more_time_for_its_next_head(
    hub: ServedHub, said: bytes
) -> None:
    stream = await connected(hub)
    for _ in range(3):
        stream[1].write(HEAD + b"\r\n")
        assert (await answered(stream)).endswith(b'{"status":"live"}')
        await asyncio.sleep(0.15)  # idle between requests is not late, however often
    stream[1].write(said)
    assert await ended(stream) == b""


@pytest.mark.parametrize("said", [b"Content-Length: 9\r\n\r\n", b"Content-Length: 9\r\n\r\n{"])
async def test_a_body_that_never_comes_is_not_waited_for(
    hub: ServedHub,
    said: bytes,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = await connected(hub)
    stream[1].write(POST + said)
    assert await ended(stream) == b""
    written = capsys.readouterr()
    assert "Traceback" not in caplog.text + written.out + written.err


async def test_a_body_that_is_not_wanted_does_not_leave_its_connection_open(
    hub: ServedHub,
) -> None:
    stream = await connected(hub)
    stream[1].write(b"POST /v1/nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
    assert (await answered(stream)).startswith(b"HTTP/1.1 404")
    stream[1].write(b"{}       ")  # whole now, and nothing more
    assert await ended(stream) == b""


async def test_a_client_that_does_not_take_its_answers_is_cut_off(hub: ServedHub) -> None:
    stream = await connected(hub)
    stream[0]._transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(2_000):
        stream[1].write(b"GET /docs HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(8):
        await _write_until_cut_off(stream[1])


async def _write_until_cut_off(writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await asyncio.sleep(0.05)
            writer.write(HEAD + b"\r\n")
            await writer.drain()
    except ConnectionError:
        return


async def test_a_socket_that_was_opened_and_an_answer_that_takes_long_are_left_alone(
    hub: ServedHub,
) -> None:
    session = await hub.sign_up("ada@hub.example")
    token = session["access_token"]
    async with open_socket(hub.ws_url, token) as socket:
        conversation = (await socket.ask("conversation.create"))["id"]
        stream = await connected(hub)
        path = f"/v1/channels/conversation:{conversation}/events"
        asked = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        stream[1].write(asked.encode())
        await stream[0].readuntil(b": following")
        silent = await connected(hub)
        assert await ended(silent) == b""  # the deadline of all three is over
        await socket.ask("session.ping")
        assert not stream[0].at_eof()
        stream[1].close()


async def until(true: Callable[[], bool]) -> None:
    async def ask() -> bool:
        return true()

    await eventually(ask)


class Late:
    """A connection that counts its ends."""

    def __init__(self, log: list["Late"], more: int = 0) -> None:
        self.log = log
        self.more = more

    def late(self) -> bool:
        self.log.append(self)
        self.more -= 1
        return self.more >= 0


async def test_ten_thousand_late_connections_are_cut_off_a_few_at_a_time() -> None:
    over: list[Late] = []
    deadline = Deadline(0.0)
    for _ in range(10_000):
        deadline.begin(Late(over))
    most = before = 0
    while len(over) < 10_000:
        await asyncio.sleep(0)
        most = max(most, len(over) - before)
        before = len(over)
    assert most <= AT_ONCE


async def test_who_has_met_the_deadline_is_not_late_and_who_is_not_to_blame_has_more_time() -> None:
    over: list[Late] = []
    deadline = Deadline(0.1)
    met, forgiven, late = Late(over), Late(over, more=1), Late(over)
    for one in (met, forgiven, late):
        deadline.begin(one)
    deadline.met(met)
    await until(lambda: len(over) == 3)
    assert over == [forgiven, late, forgiven]
    assert not any(one in deadline for one in (met, forgiven, late))
