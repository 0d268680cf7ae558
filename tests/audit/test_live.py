"""The channel ``audit``: each tenant's own, in the order of the trail, with nothing left out."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import update
from sqlmodel import col

from hub.audit.live import FIRST, Live, channel_of
from hub.audit.trail import WRITTEN, record
from hub.backplane.interface import Backplane
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.backplane.redis import RedisBackplane
from hub.faults import Fault
from hub.storage.database import Database
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Membership
from tests.audit.conftest import make_tenant, write
from tests.interaction.drivers import Refused, eventually, open_socket
from tests.parts.hub import PASSWORD, ServedHub, ServeHub, serving
from tests.parts.redis import RedisProcess
from tests.parts.scripted import ScriptedModel


@dataclass
class Nodes:
    """Two nodes with one database, SQLite, and one backplane; nobody has begun to tell."""

    database: Database
    backplanes: tuple[Backplane, Backplane]
    lives: tuple[Live, Live]
    followed: list[str]

    async def said(self, tenant: str) -> list[int]:
        """The ``seq`` of the entries that are in the channel's log, in its order."""
        page = await self.backplanes[0].read(channel_of(tenant), 0)
        return [json.loads(entry.data)["value"]["seq"] for entry in page.entries]

    async def says(self, tenant: str, seqs: list[int]) -> None:
        async def as_wanted() -> bool:
            return await self.said(tenant) == seqs

        await eventually(as_wanted)


@pytest.fixture(params=["memory", "redis"])
async def nodes(request: pytest.FixtureRequest, sqlite_url: str) -> AsyncIterator[Nodes]:
    one: Backplane
    two: Backplane
    if request.param == "memory":
        shared = MemoryShared()
        one, two = MemoryBackplane(shared), MemoryBackplane(shared)
    else:
        server: RedisProcess = request.getfixturevalue("redis_server")
        one, two = (RedisBackplane(server.url, node=f"n_{name}") for name in ("one", "two"))
    async with AsyncExitStack() as stack:
        database = Database(sqlite_url)
        await database.start()
        stack.push_async_callback(database.close)
        followed: list[str] = []
        lives = []
        for backplane in (one, two):
            await backplane.start()
            stack.push_async_callback(backplane.close)
            lives.append(Live(database, backplane, lambda: followed, look_s=0.02))
            stack.push_async_callback(lives[-1].close)
        yield Nodes(database, (one, two), (lives[0], lives[1]), followed)


async def test_two_nodes_tell_each_entry_once_and_in_order(nodes: Nodes) -> None:
    tenant = await make_tenant(nodes.database)

    def committed(info: Mapping[Any, Any]) -> None:
        for live in nodes.lives:
            for entry in info.get(WRITTEN, ()):
                live.grown(entry.tenant_id)

    nodes.database.on_commit(committed)
    for live in nodes.lives:
        live.start()
    await asyncio.gather(*(write(nodes.database, tenant, 5) for _ in range(8)))
    await nodes.says(tenant, [*range(1, 41)])


async def test_what_a_node_that_died_had_not_told_the_next_one_tells(nodes: Nodes) -> None:
    tenant = await make_tenant(nodes.database)
    one, two = nodes.lives
    one.start()
    await write(nodes.database, tenant, 2)
    one.grown(tenant)
    await nodes.says(tenant, [1, 2])
    await one.close()
    await write(nodes.database, tenant, 3)
    two.start()
    await write(nodes.database, tenant, 1)
    two.grown(tenant)
    await nodes.says(tenant, [1, 2, 3, 4, 5, 6])


async def test_what_nobody_told_is_found_where_the_channel_is_followed(nodes: Nodes) -> None:
    tenant = await make_tenant(nodes.database)
    nodes.followed.append(channel_of(tenant))
    nodes.lives[1].start()
    await write(nodes.database, tenant, 2)
    await nodes.says(tenant, [1, 2])
    await write(nodes.database, tenant, 1)
    await nodes.says(tenant, [1, 2, 3])


async def test_a_new_log_begins_with_the_newest_entries(nodes: Nodes) -> None:
    tenant = await make_tenant(nodes.database)
    async with nodes.database.write(tenant) as session:
        for _ in range(FIRST + 20):
            await record(session, tenant, "user.do")
    nodes.lives[0].start()
    nodes.lives[0].grown(tenant)
    await nodes.says(tenant, [*range(21, FIRST + 21)])


async def test_who_begins_to_follow_is_not_told_what_was_before(nodes: Nodes) -> None:
    tenant = await make_tenant(nodes.database)
    await write(nodes.database, tenant, 3)
    await asyncio.gather(*(live.catch_up(tenant) for live in nodes.lives * 3))
    assert await nodes.said(tenant) == [1, 2, 3]


async def test_while_the_backplane_is_away_entries_wait(
    sqlite_url: str, own_redis: RedisProcess
) -> None:
    async with AsyncExitStack() as stack:
        database = Database(sqlite_url)
        await database.start()
        stack.push_async_callback(database.close)
        backplane = RedisBackplane(own_redis.url, node="n_one")
        await backplane.start()
        stack.push_async_callback(backplane.close)
        live = Live(database, backplane, list)
        stack.push_async_callback(live.close)
        tenant = await make_tenant(database)
        own_redis.stop()
        live.start()
        await write(database, tenant, 3)
        live.grown(tenant)
        await asyncio.to_thread(own_redis.start)

        async def told() -> bool:
            try:
                return len((await backplane.read(channel_of(tenant), 0)).entries) == 3
            except Fault:
                return False

        await eventually(told, within=15)


# --- as clients see it ---


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(
    tmp_path_factory: pytest.TempPathFactory, scripted_model: ScriptedModel
) -> AsyncIterator[ServedHub]:
    async with serving(
        tmp_path_factory.mktemp("hub") / ".hub", OLLAMA_HOST=scripted_model.host
    ) as served:
        yield served


async def sign_in(hub: ServedHub, email: str) -> dict[str, str]:
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        answer = await client.post("/v1/auth/login", json={"email": email, "password": PASSWORD})
        session: dict[str, str] = answer.raise_for_status().json()
        return session


on_one_loop = pytest.mark.asyncio(loop_scope="module")


@on_one_loop
async def test_who_may_read_it_follows_the_trail_of_their_tenant_alone(hub: ServedHub) -> None:
    ada = await hub.sign_up("live-ada@hub.example")
    async with open_socket(hub.ws_url, ada["access_token"]) as socket:
        at = await socket.ask("channel.subscribe", {"channel": "audit"})
        assert (at["channel"], at["recovered"]) == ("audit", True)
        await hub.sign_up("live-eve@hub.example")
        again = await sign_in(hub, "live-ada@hub.example")
        event = await socket.event()
        assert (event["channel"], event["seq"]) == ("audit", at["seq"] + 1)
        assert (event["event"]["type"], event["event"]["name"]) == ("CUSTOM", "audit.entry")
        entry = event["event"]["value"]
        assert (entry["action"], entry["session_id"]) == ("account.login", again["session_id"])
        (newest, *_) = (await socket.ask("audit.query", {"limit": 1}))["items"]
        assert newest == entry, "an event is the entry itself"
        assert (await socket.event())["event"]["value"]["action"] == "audit.query"
        with pytest.raises(TimeoutError):
            await socket.event(within=0.2)  # nothing of others
        tenant = (await socket.ask("session.info"))["tenant_id"]
        with pytest.raises(Refused, match="not_found"):
            await socket.ask("channel.subscribe", {"channel": f"audit:{tenant}"})


@on_one_loop
async def test_it_is_replayed_resumed_read_back_and_left_like_any_channel(hub: ServedHub) -> None:
    ada = await hub.sign_up("live-bea@hub.example")
    async with open_socket(hub.ws_url, ada["access_token"]) as socket:
        at = await socket.ask("channel.subscribe", {"channel": "audit", "since": "start"})
        first, second, third = [await socket.event() for _ in range(3)]
        told = [event["event"]["value"]["action"] for event in (first, second, third)]
        assert told == ["account.register", "account.login", "channel.subscribe"]
        assert await socket.ask("channel.unsubscribe", {"channel": "audit"}) == {}
        back = {"epoch": at["epoch"], "seq": first["seq"]}
        await socket.ask("channel.subscribe", {"channel": "audit", "since": back})
        assert (await socket.event())["event"] == second["event"]
        past = await socket.ask("channel.history", {"channel": "audit"})
        assert [item["event"]["value"]["seq"] for item in past["items"]][:3] == [1, 2, 3]


@on_one_loop
async def test_a_persistent_session_remembers_it(hub: ServedHub) -> None:
    ada = await hub.sign_up("live-cid@hub.example")
    key = {"Hub-Session-Key": "auditor"}
    async with open_socket(hub.ws_url, ada["access_token"], headers=key) as socket:
        at = await socket.ask("channel.subscribe", {"channel": "audit"})
        await sign_in(hub, "live-cid@hub.example")
        event = await socket.event()
        position = {"channel": "audit", "epoch": event["epoch"], "seq": event["seq"]}
        kept = await socket.ask("channel.acknowledge", {"channels": [position]})
        assert kept["channels"] == [position]
    await sign_in(hub, "live-cid@hub.example")
    async with open_socket(hub.ws_url, ada["access_token"], headers=key) as socket:
        assert (await socket.notice("subscription.resumed"))["channel"] == "audit"
        assert (await socket.event())["seq"] == at["seq"] + 2


@on_one_loop
async def test_it_is_a_stream_of_server_sent_events_too(hub: ServedHub) -> None:
    ada = await hub.sign_up("live-dan@hub.example")
    headers = {"Authorization": f"Bearer {ada['access_token']}"}
    async with (
        httpx.AsyncClient(base_url=hub.url, trust_env=False, headers=headers) as client,
        client.stream("GET", "/v1/channels/audit/events?since=start") as response,
    ):
        async with asyncio.timeout(8):
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    assert json.loads(line[6:])["value"]["action"] == "account.register"
                    break


@on_one_loop
async def test_who_may_not_read_it_may_not_follow_it_and_loses_it_with_the_permission(
    hub: ServedHub,
) -> None:
    ada = await hub.sign_up("live-fay@hub.example")
    services = hub.hub.services
    async with open_socket(hub.ws_url, ada["access_token"]) as socket:
        await socket.ask("channel.subscribe", {"channel": "audit"})
        who = await socket.ask("session.info")
        async with services.database.write(EVERY_TENANT) as session:
            of = col(Membership.user_id) == who["user_id"]
            await session.exec(update(Membership).where(of).values(role_id="member"))
        await services.authority.changed("user", who["user_id"])
        ended = await socket.notice("subscription.ended")
        assert ended == {"channel": "audit", "reason": "permission_denied"}
        for method in ("channel.subscribe", "channel.history"):
            with pytest.raises(Refused, match="permission_denied"):
                await socket.ask(method, {"channel": "audit"})


async def test_what_one_node_writes_the_followers_of_another_hear(
    serve_hub: ServeHub, redis_server: RedisProcess
) -> None:
    redis = {"HUB_REDIS_URL": redis_server.url}
    async with serve_hub(**redis) as one, serve_hub(worker=False, **redis) as two:
        ada = await one.sign_up("ada@hub.example")
        async with open_socket(two.ws_url, ada["access_token"]) as socket:
            await socket.ask("channel.subscribe", {"channel": "audit"})
            again = await sign_in(one, "ada@hub.example")
            value = (await socket.event())["event"]["value"]
            assert value["session_id"] == again["session_id"]
