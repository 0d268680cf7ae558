"""The hub on ASGI servers that are not its own: what it asks of them, it asks by ASGI alone."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed, InvalidStatus

from hub.protocol.limits import MAX_FRAME_BYTES, OUTBOX_BYTES
from hub.protocol.rfc6455 import LOST, text_frame
from hub.transports import asgi, login, stream
from hub.transports.connection import SocketConnection
from tests.interaction.drivers import RestCaller, Socket, eventually, open_socket
from tests.parts.hub import ServedHub, ServeHub, serving
from tests.parts.scripted import ScriptedModel
from tests.parts.servers import SERVERS
from tests.parts.standing import accounted
from tests.transports.bot import conversation, run, stands_for
from tests.transports.raw import CLOSE, raw_peer
from tests.transports.test_closing import _flood, _read_all, stalling
from tests.transports.test_sse import Sent, Someone, someone_of, stalled

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS: Final = ("One\n", '"two" \\ ', "naïve ", "👩‍👩‍👧", "\u2028", "e\u0301", "x" * 20_000, " end")
_NUMBERS = count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=SERVERS)
async def hub(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    scripted_model: ScriptedModel,
) -> AsyncIterator[ServedHub]:
    """A hub for all tests on one server."""
    folder = tmp_path_factory.mktemp("hub") / ".hub"
    hub = serving(folder, SERVERS[request.param], OLLAMA_HOST=scripted_model.host)
    async with accounted(hub) as served:
        yield served


@pytest_asyncio.fixture(loop_scope="module")
async def someone(hub: ServedHub) -> AsyncIterator[Someone]:
    """Somebody new, over HTTP alone."""
    async with someone_of(hub, f"reader-{next(_NUMBERS)}") as someone:
        yield someone


def _script(tokens: tuple[str, ...], **more: Any) -> str:
    return "#script " + json.dumps({"tokens": tokens, **more})


async def _say(socket: Socket, talk: str, content: str) -> None:
    params = {"conversation_id": talk, "client_message_id": "1", "content": content}
    await socket.ask("message.send", params)


def _true(check: Callable[[], object]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return bool(check())

    return ask


async def _nobody_is_left(hub: ServedHub) -> None:
    await eventually(_true(lambda: not len(hub.hub.socket.connections)))


# --- what clients do ------------------------------------------------------------------------------


async def test_a_client_signs_in_and_reads_an_answer_byte_for_byte(
    hub: ServedHub, session: dict[str, Any]
) -> None:
    token = session["access_token"]
    async with open_socket(hub.ws_url) as socket:
        await socket.ask("session.authenticate", {"token": token})
        await socket.notice("session.ready")
        talk, channel = await conversation(socket)
        await socket.ask("channel.subscribe", {"channel": channel})
        await _say(socket, talk, _script(WORDS))
        numbers, text = stands_for(await run(socket))
    assert text == "".join(WORDS)
    assert numbers == list(range(1, numbers[-1] + 1))
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        ask = RestCaller(client, token).ask
        kept = (await ask("message.list", {"conversation_id": talk}))["items"]
    assert [message["content"] for message in kept] == [_script(WORDS), "".join(WORDS)]


async def test_a_client_that_broke_off_in_an_answer_goes_on_behind_what_it_has(
    hub: ServedHub, token: str
) -> None:
    tokens = tuple(f"{number} " for number in range(100))
    async with open_socket(hub.ws_url, token) as socket:
        talk, channel = await conversation(socket)
        await socket.ask("channel.subscribe", {"channel": channel})
        await _say(socket, talk, _script(tokens, delay_ms=2))
        has = [await socket.event() for _ in range(3)]
        socket.websocket.transport.abort()
    async with open_socket(hub.ws_url, token) as socket:
        at = {key: has[-1][key] for key in ("epoch", "seq")}
        again = await socket.ask("channel.subscribe", {"channel": channel, "since": at})
        assert again["recovered"]
        has += await run(socket)
    numbers, text = stands_for(has)
    assert numbers == list(range(1, numbers[-1] + 1))
    assert text == "".join(tokens)


async def test_a_stream_tells_what_comes_and_goes_on_after_the_last_id(someone: Someone) -> None:
    async with someone.stream() as stream:
        await stream.begun()
        await someone.send("one two three")
        whole = await stream.run()
    assert "".join(event.data.get("delta", "") for event in whole) == "one two three"
    async with someone.stream(**{"Last-Event-ID": whole[1].id or ""}) as again:
        rest = await again.run()
    assert rest[-1] == whole[-1]
    told = whole[2:]
    assert _deltas(rest) == _deltas(told)
    await eventually(_true(lambda: not someone.hub.hub.streams._readers))


def _deltas(events: list[Sent]) -> str:
    return "".join(event.data.get("delta", "") for event in events)


async def test_a_message_that_is_too_long_is_refused_unread(hub: ServedHub, token: str) -> None:
    async with open_socket(hub.ws_url, token) as socket:
        await socket.send('"' + "x" * MAX_FRAME_BYTES + '"')
        refused = await socket.heard(lambda frame: "error" in frame)
        assert refused["error"]["data"]["reason"] == "parse_error"
        await socket.ask("session.ping")


# --- how it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "told"),
    [("bad credentials", (4500, "invalid_token")),
     ("no credentials", (4502, "never_authenticated")),
     ("logout", (4503, "session_revoked")), ("binary", (1003, ""))],
)  # fmt: skip
async def test_a_close_code_arrives(
    hub: ServedHub,
    session: dict[str, Any],
    why: str,
    told: tuple[int, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: str | None = session["access_token"]
    if why == "bad credentials":
        shown = "nonsense"
    elif why == "no credentials":
        monkeypatch.setattr(login, "AUTHENTICATE_DEADLINE_S", 0.1)
        shown = None
    async with open_socket(hub.ws_url, shown) as socket:
        if why == "logout":
            await socket.notice("session.ready")
            await hub.hub.services.accounts.logout(session["session_id"])
            await socket.notice("session.revoked")
        elif why == "binary":
            await socket.send(b"")
        code, said = await socket.closed()
    assert (code, json.loads(said)["reason"] if said else "") == told
    await _nobody_is_left(hub)


async def test_a_handshake_that_is_refused_is_told_why(hub: ServedHub) -> None:
    for status, reason, more in (
        (400, "invalid_request", {"subprotocol": "graphql-ws"}),
        (403, "permission_denied", {"origin": "https://elsewhere.example"}),
    ):
        with pytest.raises(InvalidStatus) as caught:
            async with open_socket(hub.ws_url, **more):
                pass
        response = caught.value.response
        assert response.status_code == status
        assert json.loads(response.body)["error"]["data"]["reason"] == reason


@pytest.mark.parametrize("server", SERVERS)
async def test_a_node_that_goes_away_lets_its_clients_go(serve_hub: ServeHub, server: str) -> None:
    async with serve_hub(SERVERS[server]) as hub, someone_of(hub, "ada") as someone:
        async with open_socket(hub.ws_url, someone.token) as socket, someone.stream() as stream:
            await socket.notice("session.ready")
            await stream.begun()
            hub.hub.drain()
            await socket.notice("session.draining")
            code, said = await socket.closed()
            assert code == 4001
            assert json.loads(said)["retry_after_ms"] >= 0
            assert await stream.next() == Sent("ended", None, {"reason": "draining"})
            assert await stream.next() is None
        async with open_socket(hub.ws_url, someone.token) as socket:
            assert (await socket.closed())[0] == 4001
        await hub.hub.drained()


# --- who does not take part -----------------------------------------------------------------------


async def test_a_reader_that_stalls_is_given_up_and_its_neighbour_goes_on(
    hub: ServedHub, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "SEND_S", 0.5)
    connections, closes = hub.hub.socket.connections, hub.hub.services.metrics.closes
    before = closes.labels("hub", 4008)._value.get()
    async with open_socket(hub.ws_url, token) as neighbour:
        ready = await neighbour.notice("session.ready")
        _, channel = await conversation(neighbour)
        await neighbour.ask("channel.subscribe", {"channel": channel})
        async with stalling(hub, token) as slow:
            await slow.send(_asked("channel.subscribe", channel=channel))
            await eventually(_true(lambda: len(_others(hub, ready))))
            (stalled,) = _others(hub, ready)
            await eventually(_true(lambda: len(stalled.subscriptions)))
            sent = 0
            while stalled.open:
                await _flood(hub, channel, 5)
                sent += 5
                assert stalled.waiting <= OUTBOX_BYTES
                seqs = [(await neighbour.event())["seq"] for _ in range(5)]
                assert seqs == list(range(sent - 4, sent + 1))
            assert stalled.waiting == 0
            assert len(stalled.subscriptions) == 0
            await eventually(_true(lambda: len(connections) == 1))
            await neighbour.ask("session.ping")
            with pytest.raises(ConnectionClosed) as closed:
                await _read_all(slow)
            assert closed.value.rcvd is None or closed.value.rcvd.code == 4008
    assert closes.labels("hub", 4008)._value.get() == before + 1


def _asked(method: str, **params: object) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": method, "method": method, "params": params})


def _others(hub: ServedHub, ready: dict[str, Any]) -> list[SocketConnection]:
    """The connections but the one that was told that it is ready."""
    return [one for one in hub.hub.socket.connections._all if one.id != ready["connection_id"]]


async def test_a_stream_that_is_not_read_is_given_up(
    someone: Someone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "ABORT_S", 0.3)
    ends = someone.hub.hub.services.metrics.stream_ends.labels("too_slow")
    before = ends._value.get()
    async with stalled(someone):
        await eventually(_true(lambda: not someone.hub.hub.streams._readers))
        assert (await someone.ask("session.info"))["user_id"]
    assert ends._value.get() == before + 1


@pytest.mark.parametrize("says", ["nothing", "more"])
async def test_a_peer_that_does_not_answer_a_close_reads_it_and_is_not_waited_for(
    hub: ServedHub, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "AUTHENTICATE_DEADLINE_S", 0.1)
    monkeypatch.setattr(asgi, "ABORT_S", 0.3)
    async with raw_peer(hub.ws_url, None) as peer:
        await eventually(_true(lambda: len(hub.hub.socket.connections)))
        (connection,) = hub.hub.socket.connections._all
        await eventually(_true(lambda: not connection.open))
        if says == "more":  # than any server has wait; masked by zeros
            peer.writer.write((b"\x81\x82" + bytes(4) + b"{}") * 200)
        payload = await peer.until(CLOSE)
        assert int.from_bytes(payload[:2], "big") == 4502
    await _nobody_is_left(hub)


# --- what a server may do -------------------------------------------------------------------------


@asynccontextmanager
async def _failing_to_send(error: Exception) -> AsyncIterator[asgi.AsgiWriter]:
    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: object) -> None:
        raise error

    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    writer = asgi.AsgiWriter(receive, send)
    writer.write(text_frame(b"{}"))
    yield writer
    await writer.settled()
    del writer
    gc.collect()
    asyncio.get_running_loop().set_exception_handler(None)
    assert reported == []


async def test_a_server_that_has_closed_already_is_no_error() -> None:
    async with _failing_to_send(RuntimeError("Unexpected message, after the close.")):
        pass


async def test_a_server_that_fails_to_send_is_told_of_and_ends_the_connection(
    failing: list[str],
) -> None:
    async with _failing_to_send(KeyError("an error that nobody foresaw")) as writer:
        ended = await asyncio.wait_for(writer.receive(), 5)
    assert ended == {"type": "websocket.disconnect", "code": LOST}
