"""A node that goes away: its clients are told, and leave one after the other."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete

from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Run
from hub.transports import connection, draining
from hub.transports.draining import FULL_AT, moments
from tests.interaction.drivers import eventually, open_socket
from tests.parts.figures import Figures
from tests.parts.hub import ServedHub, ServeHub
from tests.transports.raw import raw_peer

CLIENTS = 200


@given(st.integers(0, 20_000), st.floats(0, 3600))
def test_clients_leave_evenly_spread_and_all_within_the_window(clients: int, window: float) -> None:
    at = moments(clients, window)
    assert len(at) == clients
    assert at == sorted(at)
    assert all(0 <= moment <= window * 0.9 + 1e-6 for moment in at)
    gaps = [after - before for before, after in itertools.pairwise(at)]
    assert max(gaps, default=0.0) <= window * 0.9 / FULL_AT + 1e-6
    if clients >= FULL_AT and window > 0.001:
        assert at[-1] > window * 0.89


def _truth(check: Callable[[], object]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return bool(check())

    return ask


async def test_a_node_that_goes_away_says_so_and_closes_with_4001(serve_hub: ServeHub) -> None:
    async with serve_hub() as hub:
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        async with open_socket(hub.ws_url, token) as one, open_socket(hub.ws_url) as opening:
            await one.notice("session.ready")
            hub.hub.drain()
            assert 0 <= (await one.notice("session.draining"))["retry_after_ms"] <= 1_000
            code, reason = await one.closed()
            told = json.loads(reason)
            assert (code, told["reason"]) == (4001, "draining")
            assert 0 <= told["retry_after_ms"] <= 500
            code, reason = await opening.closed()
            assert (code, json.loads(reason)["reason"]) == (4001, "draining")


async def test_the_clients_of_a_full_node_leave_evenly_spread_over_the_window(
    serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    monkeypatch.setattr(draining, "FULL_AT", CLIENTS)
    window = 3.0
    loop = asyncio.get_running_loop()
    async with (
        serve_hub(HUB_DRAIN_SECONDS=str(window), HUB_CONNECTIONS_PER_USER="0") as hub,
        AsyncExitStack() as stack,
    ):
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        sockets = [
            await stack.enter_async_context(open_socket(hub.ws_url, token)) for _ in range(CLIENTS)
        ]
        for socket in sockets:
            await socket.notice("session.ready")
        left: list[float] = []

        async def watch(at: int) -> float:
            told = (await sockets[at].notice("session.draining"))["retry_after_ms"] / 1000
            code, _ = await sockets[at].closed()
            assert code == 4001
            left.append(loop.time() - began)
            return left[-1] - float(told)

        watching = [asyncio.create_task(watch(at)) for at in range(CLIENTS)]
        began = loop.time()
        hub.hub.drain()
        late = await asyncio.gather(*watching)
        await hub.hub.drained()
        assert loop.time() - began < window
        tenths = [sum(at // (window * 0.09) == tenth for at in left) for tenth in range(10)]
        figures(
            f"{CLIENTS} clients of a node that drains, in each tenth of the spread: {tenths}; "
            f"closed {min(late):.3f} to {max(late):.3f} s after the moment that was told"
        )
        assert max(tenths) <= CLIENTS / 10 * 2  # all at once would be ten times the even share
        assert left[-1] - left[0] > window * 0.75


async def test_a_node_with_few_clients_is_done_at_once(serve_hub: ServeHub) -> None:
    loop = asyncio.get_running_loop()
    async with serve_hub(HUB_DRAIN_SECONDS="600") as hub, AsyncExitStack() as stack:
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        for _ in range(3):
            await stack.enter_async_context(open_socket(hub.ws_url, token))
        began = loop.time()
        hub.hub.drain()
        await hub.hub.drained()
        assert loop.time() - began < 3.0


async def test_a_client_that_reads_nothing_does_not_hold_up_a_node_that_goes_away(
    serve_hub: ServeHub,
) -> None:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        async with serve_hub(HUB_DRAIN_SECONDS="1") as hub:
            hub.somebody_stays = True
            token = (await hub.sign_up("ada@hub.example"))["access_token"]
            peer = await stack.enter_async_context(raw_peer(hub.ws_url, token))
            await eventually(_truth(lambda: len(hub.hub.socket.connections)))
            began = loop.time()
        # It never answered the close frame, and was cut off.
        assert loop.time() - began < 3.0
        assert await peer.end()


async def test_who_is_in_a_hurry_waits_for_nobody(serve_hub: ServeHub) -> None:
    loop = asyncio.get_running_loop()
    async with serve_hub(HUB_DRAIN_SECONDS="600") as hub, AsyncExitStack() as stack:
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        socket = await stack.enter_async_context(open_socket(hub.ws_url, token))
        await socket.notice("session.ready")
        async with writing(hub):
            await socket.begin("conversation.create")
            hub.hub.drain()
            await socket.notice("session.draining")
            began = loop.time()
            hub.hub.draining.hurry()
            assert (await socket.closed())[0] == 4001
            assert loop.time() - began < 2.0


async def test_a_node_that_drains_is_not_ready_and_keeps_no_connection(
    serve_hub: ServeHub,
) -> None:
    async with (
        serve_hub(HUB_DRAIN_SECONDS="1") as hub,
        httpx.AsyncClient(base_url=hub.url, trust_env=False) as client,
    ):
        assert (await client.get("/health/ready")).status_code == 200
        hub.hub.drain()
        answer = await client.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")


async def test_who_comes_to_a_node_that_drains_is_sent_elsewhere(serve_hub: ServeHub) -> None:
    async with serve_hub() as hub:
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        hub.hub.drain()
        async with open_socket(hub.ws_url, token) as socket:
            assert (await socket.closed())[0] == 4001


@asynccontextmanager
async def writing(hub: ServedHub) -> AsyncIterator[None]:
    """A write that others have to wait for."""
    async with hub.hub.services.database.write(EVERY_TENANT) as session:
        await session.exec(delete(Run))
        yield


async def test_what_is_under_way_when_the_node_goes_away_is_answered_before_the_close(
    serve_hub: ServeHub,
) -> None:
    async with AsyncExitStack() as clients:
        async with serve_hub() as hub:
            token = (await hub.sign_up("ada@hub.example"))["access_token"]
            socket = await clients.enter_async_context(open_socket(hub.ws_url, token))
            await socket.notice("session.ready")
            (draining,) = hub.hub.socket.connections._all
            async with writing(hub):
                asked = await socket.begin("conversation.create")  # it waits for our write
                await eventually(_truth(lambda: draining.requests))
                hub.hub.drain()
                await socket.notice("session.draining")
                assert draining.open
        # The hub has ended by now.
        assert (await socket.result(asked))["id"].startswith("c_")
        assert (await socket.closed())[0] == 4001


async def test_what_takes_too_long_does_not_hold_up_a_node_that_goes_away(
    serve_hub: ServeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "DRAIN_S", 0.2)
    async with serve_hub() as hub:
        token = (await hub.sign_up("ada@hub.example"))["access_token"]
        async with open_socket(hub.ws_url, token) as socket:
            await socket.notice("session.ready")
            async with writing(hub):
                await socket.begin("conversation.create")
                (draining,) = hub.hub.socket.connections._all
                await eventually(_truth(lambda: draining.requests))
                hub.hub.drain()
                assert (await socket.closed())[0] == 4001
