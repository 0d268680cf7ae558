"""Presence across nodes: one that dies, and a Redis that is away, flushed, or cut off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from hub.events import roster
from tests.agents.client import Client, Refused, opened
from tests.interaction.drivers import eventually
from tests.parts.figures import Figures
from tests.parts.hub import PASSWORD, HubProcess, ServedHub, ServeHub
from tests.parts.redis import RedisProcess

TTL_S = 1.0


@dataclass
class Nodes:
    """Two nodes on one Redis; a conversation of ada's, which bob may follow, and their tokens."""

    redis: RedisProcess
    one: ServedHub
    two: ServedHub
    ada: str
    bob: str
    channel: str
    stack: AsyncExitStack

    async def attend(self, url: str, token: str) -> Client:
        client = await self.stack.enter_async_context(opened(url, token))
        await client.call("channel.subscribe", channel=self.channel, presence=True)
        return client


@pytest.fixture
async def nodes(serve_hub: ServeHub, own_redis: RedisProcess) -> AsyncIterator[Nodes]:
    settings = {"HUB_REDIS_URL": own_redis.url, "HUB_PRESENCE_TTL": str(TTL_S)}
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(serve_hub(**settings)) for _ in range(2)]
        ada = (await one.sign_up("ada@hub.example"))["access_token"]
        services = one.hub.services
        tenant_id = services.tokens.read(ada).tenant_id
        await services.accounts.create_user("bob@hub.example", PASSWORD, tenant_id, "admin")
        accounts = services.accounts
        bob = (await accounts.login("bob@hub.example", PASSWORD)).access_token
        async with opened(one.url, ada) as client:
            conversation = await client.conversation(follow=False)
        yield Nodes(own_redis, one, two, ada, bob, f"conversation:{conversation}", stack)


def told(client: Client) -> list[str]:
    """What this client was told of others, in order."""
    words = []
    for heard in client.heard:
        event = heard["event"]
        if event["type"] == "CUSTOM":
            word = event["name"].removeprefix("presence.")
            words.append("silent" if event["value"].get("typing") is False else word)
    return words


async def _told(client: Client, *words: str) -> None:
    """Wait until this is what the client was told."""
    await client.until(lambda: told(client) == [*words])


async def _ended(client: Client) -> None:
    """Wait until a subscription of the client has ended."""
    await client.until(lambda: "subscription.ended" in dict(client.notices))


async def test_others_see_across_nodes_who_comes_types_and_leaves(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "LINGER_S", 0.05)
    here = await nodes.attend(nodes.one.url, nodes.ada)
    there = await nodes.attend(nodes.two.url, nodes.bob)
    await _told(here, "joined")
    for typing in (True, False):
        await there.call("channel.typing", channel=nodes.channel, typing=typing)
    await _told(here, "joined", "typing", "silent")
    for client in (here, there):
        found = await client.call("channel.presence", channel=nodes.channel)
        assert len(found["items"]) == 2
    await there.call("channel.unsubscribe", channel=nodes.channel)
    await _told(here, "joined", "typing", "silent", "left")
    assert told(there) == []


async def test_a_user_who_goes_to_another_node_has_not_left(nodes: Nodes) -> None:
    here = await nodes.attend(nodes.one.url, nodes.ada)
    for node in (nodes.one, nodes.two, nodes.one, nodes.two):
        there = await nodes.attend(node.url, nodes.bob)
        await _told(here, "joined")
        await there.socket.close()
    there = await nodes.attend(nodes.one.url, nodes.bob)
    # Longer than those that were left linger, and than a node's own look takes.
    await asyncio.sleep(roster.LINGER_S + TTL_S)
    assert told(here) == ["joined"]


async def test_the_users_of_a_node_that_was_killed_are_gone_when_their_time_is(
    nodes: Nodes, hub_process: HubProcess, figures: Figures
) -> None:
    hub_process.environment |= {"HUB_REDIS_URL": nodes.redis.url, "HUB_PRESENCE_TTL": str(TTL_S)}
    await asyncio.to_thread(hub_process.start, "--no-worker")
    here = await nodes.attend(nodes.one.url, nodes.ada)
    elsewhere = await nodes.attend(nodes.two.url, nodes.ada)
    await nodes.attend(hub_process.url, nodes.bob)
    for client in (here, elsewhere):
        await _told(client, "joined")
    hub_process.kill()
    clock = asyncio.get_running_loop().time
    began = clock()
    for client in (here, elsewhere):
        await _told(client, "joined", "left")
    took = clock() - began
    figures(f"a node killed: its users have left after {took:.2f} s, with {TTL_S:g} s to live")
    # A time to live and a third of it, with the defaults within a minute; here with some leeway.
    assert took < 2 * TTL_S + 2
    found = await here.call("channel.presence", channel=nodes.channel)
    assert len(found["items"]) == 1


async def test_without_redis_presence_is_unknown_and_told_again_when_it_is_back(
    nodes: Nodes,
) -> None:
    here = await nodes.attend(nodes.one.url, nodes.ada)
    there = await nodes.attend(nodes.two.url, nodes.bob)
    await _told(here, "joined")
    nodes.redis.pause()
    try:
        await there.socket.close()
        for method, params in (("presence", {}), ("typing", {"typing": True})):
            with pytest.raises(Refused) as refusal:
                await here.call(f"channel.{method}", channel=nodes.channel, **params)
            assert refusal.value.reason == "backend_unavailable"
        assert told(here) == ["joined"]
    finally:
        nodes.redis.resume()
    await _told(here, "joined", "left")


async def test_a_redis_that_has_forgotten_everything_is_told_again_and_nobody_has_left(
    nodes: Nodes,
) -> None:
    here = await nodes.attend(nodes.one.url, nodes.ada)
    there = await nodes.attend(nodes.two.url, nodes.bob)
    await _told(here, "joined")

    async def both() -> bool:
        found = await there.call("channel.presence", channel=nodes.channel)
        return len(found["items"]) == 2

    for _ in range(3):
        with nodes.redis.client() as client:
            client.flushall()
        await eventually(both)
    assert (told(here), told(there)) == (["joined"], [])


async def test_a_subscription_that_begins_again_after_a_restart_of_redis_sees_who_is_there(
    nodes: Nodes,
) -> None:
    here = await nodes.attend(nodes.one.url, nodes.ada)
    there = await nodes.attend(nodes.two.url, nodes.bob)
    await _told(here, "joined")
    nodes.redis.restart()  # and with it the log is lost, which ends the subscriptions
    for client in (here, there):
        await _ended(client)
        await client.call("channel.subscribe", channel=nodes.channel, presence=True)

    async def both() -> bool:
        found = await here.call("channel.presence", channel=nodes.channel)
        return len(found["items"]) == 2

    await eventually(both)
