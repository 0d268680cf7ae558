"""How a WebSocket ends, and that nothing is left of it."""

import asyncio
import gc
import json
import socket as sockets
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from hub.backplane.interface import LogSlice
from hub.cli import serving as cli_serving
from hub.events.fanout import PAGE_BYTES
from hub.events.outbox import REPLAY_BYTES
from hub.transports import login, wire
from hub.transports.bounds import READS_AT_ONCE
from hub.transports.connection import SocketConnection
from tests.interaction.drivers import Socket, eventually, open_socket
from tests.parts.hub import ServedHub, ServeHub
from tests.transports.raw import CLOSE, PING, raw_peer
from tests.transports.tokens import lasting

WORDS = "x" * 60_000


@asynccontextmanager
async def stalling(
    hub: ServedHub, token: str, url: str | None = None
) -> AsyncIterator[ClientConnection]:
    """A client that reads only what it is told to; of the hub at ``url``, if not at its own."""
    url = url or hub.ws_url
    small = sockets.socket()
    small.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 65_536)
    small.setblocking(False)
    host, port = url.removeprefix("ws://").removesuffix("/ws").split(":")
    await asyncio.get_running_loop().sock_connect(small, (host, int(port)))
    async with connect(
        url,
        sock=small,
        additional_headers={"Authorization": f"Bearer {token}"},
        subprotocols=[Subprotocol("agenthub.v1")],
        compression=None,
        ping_interval=None,
        max_queue=1,
        max_size=None,
        close_timeout=0.1,
    ) as websocket:
        yield websocket


async def _ask(websocket: ClientConnection, method: str, **params: object) -> None:
    frame = {"jsonrpc": "2.0", "id": method, "method": method, "params": params}
    await websocket.send(json.dumps(frame))
    while json.loads(await websocket.recv()).get("id") != method:
        pass


async def _read_all(websocket: ClientConnection) -> None:
    while True:
        await websocket.recv()


async def _flood(hub: ServedHub, channel: str, events: int) -> None:
    event = json.dumps({"type": "CUSTOM", "name": "flood", "value": WORDS}).encode()
    for _ in range(events):
        await hub.hub.services.backplane.append(channel, event)


@pytest.mark.parametrize("neighbours", [0, 1])
async def test_a_reader_that_stops_is_closed_with_4008_and_its_memory_is_free(
    served_hub: ServedHub, neighbours: int
) -> None:
    session = await served_hub.sign_up("ada@hub.example")
    token = session["access_token"]
    async with open_socket(served_hub.ws_url, token) as neighbour:
        conversation = (await neighbour.ask("conversation.create"))["id"]
        channel = f"conversation:{conversation}"
        if neighbours:
            await neighbour.ask("channel.subscribe", {"channel": channel})
        async with stalling(served_hub, token) as stalled:
            await _ask(stalled, "channel.subscribe", channel=channel)
            slow = next(
                one
                for one in served_hub.hub.socket.connections._all
                if one.id != _connection_id(neighbour)
            )
            sent = 0
            while slow.open:
                await _flood(served_hub, channel, 5)
                sent += 5
                assert sent < 2_000, "the slow reader was never closed"
                if neighbours:
                    assert [(await neighbour.event())["seq"] for _ in range(5)] == [
                        *range(sent - 4, sent + 1)
                    ]
            assert slow._outbox.size == 0
            assert len(slow.subscriptions) == 0
            await _flood(served_hub, channel, 5)
            if neighbours:
                assert (await neighbour.event())["seq"] == sent + 1
            with pytest.raises(ConnectionClosed) as closed:
                await _read_all(stalled)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4008
            assert json.loads(closed.value.rcvd.reason)["reason"] == "too_slow"
        await neighbour.ask("session.ping")


async def test_what_fails_behind_a_reply_closes_the_connection_so_that_it_is_resumed(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch, failing: list[str]
) -> None:
    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    async with open_socket(served_hub.ws_url, token) as socket:
        conversation = (await socket.ask("conversation.create"))["id"]
        channel = f"conversation:{conversation}"
        backplane = served_hub.hub.services.backplane
        await _flood(served_hub, channel, 1)
        read = backplane.read

        async def fails(channel: str, after: int, limit: int = 1_000, most: int = 0) -> LogSlice:
            if most == PAGE_BYTES:
                raise ValueError("an error that nobody foresaw")
            return await read(channel, after, limit, most)

        monkeypatch.setattr(backplane, "read", fails)
        at = await socket.ask("channel.subscribe", {"channel": channel, "since": "start"})
        assert at["seq"] == 0
        # It was told that events follow, and none would: not even those to come.
        await asyncio.wait_for(socket.websocket.wait_closed(), 5)
        assert socket.websocket.close_code == 1011


def _connection_id(socket: Socket) -> str:
    """The connection's id, of the session.ready that has come."""
    return str(socket.left("session.ready")[0]["connection_id"])


async def test_a_client_that_asks_for_many_large_pages_at_once_gets_them_all(
    served_hub: ServedHub,
) -> None:
    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    async with open_socket(served_hub.ws_url, token) as socket:
        conversation = (await socket.ask("conversation.create"))["id"]
    channel = f"conversation:{conversation}"
    await _flood(served_hub, channel, 5)
    async with stalling(served_hub, token) as busy:
        params = {"channel": channel, "after": 0}
        asked = {f"page {number}" for number in range(40)}
        for id in asked:
            frame = {"jsonrpc": "2.0", "id": id, "method": "channel.history", "params": params}
            await busy.send(json.dumps(frame))
        while asked:
            reply = json.loads(await busy.recv())
            if "id" in reply:
                assert len(reply["result"]["items"]) == 5
                asked.remove(reply["id"])


async def test_a_client_that_asks_for_many_large_pages_and_reads_none_has_few_of_them_made(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    async with open_socket(served_hub.ws_url, token) as socket:
        channel = f"conversation:{(await socket.ask('conversation.create'))['id']}"
    await _flood(served_hub, channel, 10)
    made = 0
    backplane = served_hub.hub.services.backplane
    read = backplane.read

    async def counted(channel: str, after: int, limit: int = 1_000) -> LogSlice:
        nonlocal made
        made += 1
        return await read(channel, after, limit)

    async with (
        open_socket(served_hub.ws_url, token) as neighbour,
        stalling(served_hub, token) as greedy,
    ):
        connections = served_hub.hub.socket.connections
        await eventually(_truth(lambda: len(connections) == 2))
        (stalled,) = (o for o in connections._all if o.id != _connection_id(neighbour))
        monkeypatch.setattr(backplane, "read", counted)
        for id in range(64):
            params = {"channel": channel, "after": 0}
            frame = {"jsonrpc": "2.0", "id": id, "method": "channel.history", "params": params}
            await greedy.send(json.dumps(frame))
        await eventually(_truth(lambda: stalled.waiting > REPLAY_BYTES))
        for _ in range(20):
            await neighbour.ask("session.ping")
        unanswered = len(stalled.requests)
        assert unanswered > READS_AT_ONCE
        assert made - (64 - unanswered) <= READS_AT_ONCE


async def test_a_reader_that_never_reads_again_is_cut_off(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "ABORT_S", 0.2)
    session = await served_hub.sign_up("ada@hub.example")
    token = session["access_token"]
    connections = served_hub.hub.socket.connections
    async with open_socket(served_hub.ws_url, token) as socket:
        conversation = (await socket.ask("conversation.create"))["id"]
    channel = f"conversation:{conversation}"
    async with stalling(served_hub, token) as stalled:
        await _ask(stalled, "channel.subscribe", channel=channel)
        (slow,) = connections._all
        transport = slow._writer._protocol.transport  # type: ignore[attr-defined]
        while slow.open:
            await _flood(served_hub, channel, 10)

        async def gone() -> bool:
            return transport.is_closing() and not len(connections)

        await eventually(gone)
        assert transport.get_write_buffer_size() == 0


async def test_who_does_not_answer_a_ping_is_closed_with_4012(
    serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_serving, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(cli_serving, "PONG_DEADLINE_S", 0.2)
    async with serve_hub() as hub:
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        async with raw_peer(hub.ws_url, token) as peer, open_socket(hub.ws_url, token) as polite:
            await peer.until(PING)
            payload = await peer.until(CLOSE)
            assert int.from_bytes(payload[:2], "big") == 4012
            assert json.loads(payload[2:])["reason"] == "no_pong"
            await peer.end()
            await polite.ask("session.ping")
        assert _closes(hub) == {"4012": 1}


async def test_the_pings_of_clients_that_came_together_are_spread(
    serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_serving, "HEARTBEAT_S", 2.0)
    async with serve_hub() as hub, AsyncExitStack() as stack:
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        sockets = [
            await stack.enter_async_context(open_socket(hub.ws_url, token)) for _ in range(20)
        ]
        connections = hub.hub.socket.connections._all
        loop = asyncio.get_running_loop()
        due = sorted(
            one._writer._protocol.ping_timer.when() - loop.time()  # type: ignore[attr-defined]
            for one in connections
        )
        assert len(due) == len(sockets)
        assert due[-1] - due[0] > 0.5

        def pings() -> float:
            return hub.hub.services.metrics.registry.get_sample_value("hub_ping_seconds_count") or 0

        await eventually(_truth(lambda: pings() >= len(sockets)))
        seconds = hub.hub.services.metrics.registry.get_sample_value("hub_ping_seconds_sum")
        assert seconds is not None
        assert 0 < seconds < len(sockets)


def _closes(hub: ServedHub, by: str = "hub") -> dict[str, float]:
    """How many connections the hub says were closed, by code."""
    (family,) = hub.hub.services.metrics.closes.collect()
    return {
        sample.labels["code"]: sample.value
        for sample in family.samples
        if sample.name == "hub_closes_total" and sample.labels["by"] == by
    }


@pytest.mark.parametrize(
    ("frame", "code"), [(b"\xff\xfe", 1007), (b"x" * 65_537, 1009), (b"", 1003)]
)
async def test_a_close_for_what_the_peer_sent_is_counted_once(
    served_hub: ServedHub, frame: bytes, code: int
) -> None:
    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    async with open_socket(served_hub.ws_url, token) as socket:
        await socket.ask("session.ping")
        await socket.websocket.send(frame, text=code != 1003)
        assert (await socket.closed())[0] == code
    async with open_socket(served_hub.ws_url, token) as socket:
        await socket.ask("session.ping")  # one that the client closes itself
    await eventually(_truth(lambda: not len(served_hub.hub.socket.connections)))
    assert _closes(served_hub) == {str(code): 1}
    assert _closes(served_hub, "peer") == {"1000": 1}
    assert _closes(served_hub, "lost") == {}


@pytest.mark.parametrize(
    ("sent", "by", "counted"),
    [(1001, "peer", "1001"), (4001, "peer", "4001"), (3999, "peer", "other"),
     (4999, "peer", "other"), (None, "peer", "1005"), ("lost", "lost", "1006")],
)  # fmt: skip
async def test_an_end_by_the_peer_is_counted_apart_from_the_hub_s_own(
    served_hub: ServedHub, sent: int | str | None, by: str, counted: str
) -> None:
    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    async with raw_peer(served_hub.ws_url, token) as peer:
        await eventually(_truth(lambda: len(served_hub.hub.socket.connections)))
        if sent == "lost":
            peer.writer.transport.abort()
        else:
            payload = sent.to_bytes(2, "big") if isinstance(sent, int) else b""
            # Masked by zeros, and twice: what follows a close frame changes nothing.
            peer.writer.write((b"\x88" + bytes([0x80 | len(payload)]) + bytes(4) + payload) * 2)
        await eventually(_truth(lambda: not len(served_hub.hub.socket.connections)))
    ends = {who: _closes(served_hub, who) for who in ("hub", "peer", "lost")}
    assert ends == {"hub": {}, "peer": {}, "lost": {}} | {by: {counted: 1}}


@pytest.mark.parametrize("how", ["close", "abort", "revoked", "expired", "binary", "in flight"])
async def test_nothing_is_left_of_a_connection(
    served_hub: ServedHub, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "EXPIRED_GRACE_S", 0.1)
    session = await served_hub.sign_up("ada@hub.example")
    token = session["access_token"]
    connections = served_hub.hub.socket.connections
    async with open_socket(served_hub.ws_url, token) as socket:
        channel = f"conversation:{(await socket.ask('conversation.create'))['id']}"
    await eventually(_truth(lambda: not len(connections)))
    before = len(asyncio.all_tasks())
    left: weakref.ref[SocketConnection]
    async with open_socket(
        served_hub.ws_url, lasting(served_hub, token, -20 if how == "expired" else 600)
    ) as socket:
        await socket.notice("session.ready")
        left = weakref.ref(next(iter(connections._all)))
        if how != "expired":
            await socket.ask("channel.subscribe", {"channel": channel})
        if how == "abort":
            socket.websocket.transport.abort()
        elif how == "revoked":
            await served_hub.hub.services.accounts.logout(session["session_id"])
        elif how == "binary":
            await socket.send(b"")
        elif how == "in flight":
            for _ in range(20):
                await socket.begin("conversation.create")
                await socket.begin("channel.history", {"channel": channel})
        if how not in ("close", "in flight"):
            await socket.closed()
    await eventually(_truth(lambda: not len(connections)))
    await eventually(_truth(lambda: len(asyncio.all_tasks()) <= before))
    gc.collect()
    assert left() is None, gc.get_referrers(left())
    assert served_hub.hub.services.fanout._channels == {}


def _truth(check: Callable[[], object]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return bool(check())

    return ask
