"""How many connections somebody may have, and how fast they may send."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from websockets.exceptions import ConnectionClosed

from hub.protocol.limits import FRAMES_BURST, FRAMES_PER_S
from hub.settings import read_settings
from hub.transports import connection
from hub.transports.pace import Pace
from hub.transports.seats import House, Seated
from tests.interaction.drivers import Refused, Socket, eventually, open_socket
from tests.parts.hub import ServedHub, ServeHub
from tests.transports.raw import CLOSE, raw_peer
from tests.transports.test_sse import Someone, someone_of

LONGEST_MS = 1000 * 2 / FRAMES_PER_S + 2
TRUSTED = {"HUB_TRUSTED_PROXIES": "127.0.0.1"}


async def reason(socket: Socket) -> tuple[int | None, str]:
    code, told = await socket.closed()
    return code, json.loads(told)["reason"]


def open_from(hub: ServedHub, token: str, address: str) -> Any:
    return open_socket(hub.ws_url, token, headers={"X-Forwarded-For": address})


async def left(hub: ServedHub, connections: int) -> None:
    async def so_many() -> bool:
        return len(hub.hub.socket.connections) == connections

    await eventually(so_many)


async def test_a_user_with_too_many_connections_is_closed_with_4504_and_others_are_not(
    serve_hub: ServeHub,
) -> None:
    async with serve_hub(HUB_CONNECTIONS_PER_USER="2") as hub:
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        eves = (await hub.sign_up("eve@hub.example"))["access_token"]
        async with open_socket(hub.ws_url, token) as one, open_socket(hub.ws_url) as two:
            await one.notice("session.ready")
            await two.ask("session.authenticate", {"token": token})
            async with open_socket(hub.ws_url, token) as three:
                assert await reason(three) == (4504, "too_many_connections")
                assert three.left("session.ready") == []
            async with open_socket(hub.ws_url) as three:
                await three.begin("session.authenticate", {"token": token})
                assert await reason(three) == (4504, "too_many_connections")
            async with open_socket(hub.ws_url, eves) as other:
                await other.notice("session.ready")
            await one.ask("session.ping")
        await left(hub, 0)
        async with open_socket(hub.ws_url, token) as again:
            await again.notice("session.ready")
        await left(hub, 0)
        assert len(hub.hub.socket._house.users) == 0


async def test_an_address_with_too_many_connections_is_closed_with_4504_as_a_proxy_tells_it(
    serve_hub: ServeHub,
) -> None:
    async with serve_hub(HUB_CONNECTIONS_PER_ADDRESS="1", **TRUSTED) as hub:
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        async with open_from(hub, token, "192.0.2.1") as one:
            await one.notice("session.ready")
            async with open_from(hub, token, "192.0.2.1") as two:
                assert await reason(two) == (4504, "too_many_connections")
            async with open_from(hub, token, "192.0.2.2") as other:
                await other.notice("session.ready")
            for _ in range(3):  # the machine's own
                async with open_socket(hub.ws_url, token) as local:
                    await local.notice("session.ready")
        await left(hub, 0)
        async with open_from(hub, token, "192.0.2.1") as again:
            await again.notice("session.ready")
        await left(hub, 0)
        assert len(hub.hub.socket._house.addresses) == 0


async def so_many_streams(hub: ServedHub, streams: int) -> None:
    async def found() -> bool:
        return len(hub.hub.streams._readers) == streams

    await eventually(found)


async def refused_a_stream(someone: Someone, scope: str, **headers: str) -> None:
    async with someone.stream(**headers) as stream:
        assert stream.response.status_code == 429
        error = json.loads(await stream.response.aread())["error"]
    assert error["data"]["reason"] == "rate_limited"
    assert error["data"]["details"] == {"scope": scope}
    assert "end a stream, or close a WebSocket" in error["message"]


async def test_streams_and_sockets_of_a_user_have_one_limit_and_others_are_not_limited_by_it(
    serve_hub: ServeHub,
) -> None:
    async with serve_hub(HUB_CONNECTIONS_PER_USER="2") as hub, someone_of(hub, "ada") as ada:
        async with ada.stream(), open_socket(hub.ws_url, ada.token) as socket:
            await socket.notice("session.ready")
            await refused_a_stream(ada, "user")
            async with open_socket(hub.ws_url, ada.token) as third:
                assert await reason(third) == (4504, "too_many_connections")
            async with someone_of(hub, "eve") as eve, eve.stream() as other:
                assert other.response.status_code == 200
            await so_many_streams(hub, 1)
            assert (await ada.client.head(ada.path(), headers=ada.bearer)).status_code == 200
        await so_many_streams(hub, 0)
        await left(hub, 0)
        async with ada.stream() as one, ada.stream() as two:
            assert one.response.status_code == two.response.status_code == 200
            await refused_a_stream(ada, "user")
        await so_many_streams(hub, 0)
        assert len(hub.hub.socket._house.users) == 0


async def test_streams_and_sockets_of_an_address_have_one_limit_as_a_proxy_tells_it(
    serve_hub: ServeHub,
) -> None:
    here, there = ({"X-Forwarded-For": f"192.0.2.{host}"} for host in (1, 2))
    async with (
        serve_hub(HUB_CONNECTIONS_PER_ADDRESS="1", **TRUSTED) as hub,
        someone_of(hub, "ada") as ada,
    ):
        async with ada.stream(**here):
            await refused_a_stream(ada, "address", **here)
            async with open_from(hub, ada.token, "192.0.2.1") as two:
                assert await reason(two) == (4504, "too_many_connections")
            async with ada.stream(**there) as other, ada.stream() as local:
                assert other.response.status_code == local.response.status_code == 200
        await so_many_streams(hub, 0)
        await left(hub, 0)
        async with open_from(hub, ada.token, "192.0.2.1") as again:
            await again.notice("session.ready")
            await refused_a_stream(ada, "address", **here)
        await left(hub, 0)
        # Of the seat of the user, which was free, the refused one has kept nothing.
        assert len(hub.hub.socket._house.addresses) == len(hub.hub.socket._house.users) == 0


async def test_who_sends_too_fast_is_told_when_to_go_on_and_who_does_not_heed_is_closed_with_4029(
    served_hub: ServedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(connection, "monotonic", lambda: now[0])
    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    async with open_socket(served_hub.ws_url, token) as socket:
        await socket.notice("session.ready")
        for _ in range(FRAMES_BURST):
            await socket.ask("session.ping")
        with pytest.raises(Refused) as refusal:
            await socket.ask("session.ping")
        assert refusal.value.reason == "rate_limited"
        wait_ms = refusal.value.details["retry_after_ms"]
        assert 0 < wait_ms <= LONGEST_MS
        now[0] += wait_ms / 1000
        await socket.ask("session.ping")  # it waited, and is taken again
        frame = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "session.ping"})
        with suppress(ConnectionClosed):
            for number in range(FRAMES_BURST + 10):
                await socket.send(frame.replace(":1,", f":{-number - 1},"))
        assert await reason(socket) == (4029, "rate_limited")


def test_a_reconnect_of_the_largest_client_passes() -> None:
    """200 channels and 64 requests, three times in a row."""
    pace = Pace(0.0)
    assert not any(pace.take(0.0) for _ in range(3 * (200 + 64)))


@given(st.lists(st.floats(0, 10), max_size=300))
def test_who_keeps_the_pace_is_never_refused(pauses: list[float]) -> None:
    now = 0.0
    pace = Pace(now)
    for pause in pauses:
        now += pause + 1 / FRAMES_PER_S
        assert pace.take(now) == 0


@given(st.integers(0, 3 * FRAMES_BURST), st.floats(0, 5))
def test_who_waits_as_told_is_taken_again_and_never_floods(frames: int, pause: float) -> None:
    now = 0.0
    pace = Pace(now)
    for _ in range(frames):
        wait_ms = pace.take(now)
        assert not pace.flooded
        assert wait_ms <= LONGEST_MS
        if wait_ms:
            now += pause + wait_ms / 1000
            assert pace.take(now) == 0


class Seating(RuleBasedStateMachine):
    """Connections of two users and addresses come and go; nobody has more than two."""

    def __init__(self) -> None:
        super().__init__()
        most = {"HUB_CONNECTIONS_PER_USER": 2, "HUB_CONNECTIONS_PER_ADDRESS": 2}
        self.house = House(read_settings(**most))
        self.seated: list[tuple[Seated, str, str]] = []

    @rule(user=st.sampled_from("ab"), address=st.sampled_from(["192.0.2.1", "192.0.2.2"]))
    def come(self, user: str, address: str) -> None:
        users = sum(one[1] == user for one in self.seated)
        addresses = sum(one[2] == address for one in self.seated)
        seated = Seated(self.house)
        assert seated.by_address(address) == (addresses < 2)
        if addresses < 2:
            assert seated.by_user(user) == (users < 2)
        if addresses < 2 and users < 2:
            self.seated.append((seated, user, address))
        else:
            seated.leave()

    @rule()
    def go(self) -> None:
        if self.seated:
            seated = self.seated.pop(0)[0]
            seated.leave()
            seated.leave()

    @invariant()
    def nothing_is_kept_of_who_left(self) -> None:
        assert len(self.house.users) == len({one[1] for one in self.seated})
        assert len(self.house.addresses) == len({one[2] for one in self.seated})


TestSeating = Seating.TestCase


async def test_a_flood_of_pings_is_closed_with_4029_like_any_other(served_hub: ServedHub) -> None:
    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    ping = b"\x89\x80\x00\x00\x00\x00"  # masked, as a client's, and empty
    async with raw_peer(served_hub.ws_url, token) as peer:
        peer.writer.write(ping * 3 * FRAMES_BURST)
        closed = await peer.until(CLOSE)
        assert int.from_bytes(closed[:2], "big") == 4029
    async with open_socket(served_hub.ws_url, token) as again:
        await again.ask("session.ping")
