"""A bot's persistent session through the ends of the bot, of its node, and of both."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hub_client import connect
from websockets.exceptions import ConnectionClosed

from hub.backplane.choice import open_backplane
from tests.faults.test_kill import QUICKLY, sign_in, start
from tests.interaction.drivers import Socket
from tests.parts.hub import HubProcess
from tests.parts.ports import free_port
from tests.parts.redis import RedisProcess
from tests.transports.bot import acknowledge, bot, conversation, run, send, stands_for

Event = dict[str, Any]


@pytest.fixture
def nodes(
    hub_process: HubProcess, redis_server: RedisProcess, tmp_path: Path
) -> Iterator[tuple[HubProcess, HubProcess]]:
    """Two nodes on one database and one Redis, not started yet."""
    hub_process.environment["HUB_REDIS_URL"] = redis_server.url
    other = HubProcess(hub_process.data_dir, free_port(), dict(hub_process.environment))
    yield hub_process, other
    if other.process is not None and other.process.poll() is None:
        other.kill()


def ws(node: HubProcess) -> str:
    return node.url.replace("http", "ws", 1) + "/ws"


async def begun(node: HubProcess, token: str) -> tuple[str, str, list[Event]]:
    """A session that has acknowledged the first three events of a run."""
    async with bot(ws(node), token) as socket:
        made, channel = await conversation(socket)
        await socket.ask("channel.subscribe", {"channel": channel})
        await send(socket, made, "one two three")
        events = await run(socket)
        await acknowledge(socket, events[2])
    return made, channel, events


async def test_a_session_outlives_its_node_and_goes_on_at_another(
    nodes: tuple[HubProcess, HubProcess],
) -> None:
    one, other = nodes
    await start(one)
    token = await sign_in(one, "ada@hub.example", register=True)
    _, _, events = await begun(one, token)
    one.kill()
    await start(one)
    await start(other)
    for node in (one, other):
        async with bot(ws(node), token) as socket:
            assert (await socket.notice("session.ready"))["resumed"] is True
            resumed = await socket.notice("subscription.resumed")
            assert (resumed["recovered"], resumed["seq"]) == (True, events[2]["seq"])
            assert stands_for(await run(socket)) == stands_for(events[3:])


async def test_a_session_whose_log_died_with_the_node_comes_back_with_a_snapshot(
    hub_process: HubProcess,
) -> None:
    await start(hub_process)
    token = await sign_in(hub_process, "ada@hub.example", register=True)
    made, channel, events = await begun(hub_process, token)
    hub_process.kill()
    await start(hub_process)
    async with bot(ws(hub_process), token) as socket:
        assert (await socket.notice("session.ready"))["resumed"] is True
        at = await socket.notice("subscription.resumed")
        assert (at["channel"], at["recovered"]) == (channel, False)
        assert at["epoch"] != events[0]["epoch"]
        assert [m["content"] for m in at["snapshot"]["messages"]] == ["one two three"] * 2
        await send(socket, made, "and on")
        last = (await run(socket))[-1]
        await acknowledge(socket, last)
    hub_process.kill()
    await start(hub_process)
    async with bot(ws(hub_process), token) as socket:
        assert (await socket.notice("subscription.resumed"))["recovered"] is False


class Bot:
    """Works through a channel, and may die at any moment: then only its ledger is left."""

    def __init__(self, channel: str, chance: random.Random) -> None:
        self.ledger: list[int] = []
        """The values of the events that it has dealt with, in order: durable work of its own."""
        self.confirmed = 0
        """The position that the hub has said to keep."""
        self.repeats = 0
        self._channel = channel
        self._chance = chance

    async def live(self, ws_url: str, token: str, awake: asyncio.Event) -> None:
        """Until something breaks."""
        try:
            async with bot(ws_url, token) as socket:
                at = await socket.notice("subscription.resumed")
                assert at["recovered"]
                assert self.confirmed <= at["seq"] <= len(self.ledger)
                self.repeats += len(self.ledger) - at["seq"]
                del self.ledger[at["seq"] :]  # what it did after that, it does again
                await self._work(socket, awake)
        except (ConnectionClosed, ConnectionError, OSError, EOFError):
            return

    async def _work(self, socket: Socket, awake: asyncio.Event) -> None:
        while True:
            event = await socket.event()
            assert event["seq"] == len(self.ledger) + 1
            self.ledger.append(event["event"]["value"])
            awake.set()
            if self._chance.random() < 0.2:
                await acknowledge(socket, event)
                self.confirmed = event["seq"]


@asynccontextmanager
async def talking(redis: RedisProcess, channel: str) -> AsyncIterator[list[int]]:
    """Append numbered events to the channel all the time; the numbers that are in the log."""
    backplane = open_backplane(redis.url, "talker")
    await backplane.start()
    said: list[int] = []

    async def talk() -> None:
        while True:
            number = len(said) * 7
            text = f'{{"type":"CUSTOM","name":"number","value":{number}}}'
            said.append(number)  # cancelled or not, what is sent is appended
            await asyncio.shield(backplane.append(channel, text.encode()))
            await asyncio.sleep(0.002)

    talker = asyncio.create_task(talk())
    try:
        yield said
    finally:
        talker.cancel()
        await asyncio.wait({talker})
        await backplane.close()


async def test_every_event_is_dealt_with_once_and_in_order_whatever_dies_and_when(
    nodes: tuple[HubProcess, HubProcess], redis_server: RedisProcess
) -> None:
    chance = random.Random(7)
    for node in nodes:
        await start(node)
    token = await sign_in(nodes[0], "ada@hub.example", register=True)
    async with bot(ws(nodes[0]), token) as socket:
        _, channel = await conversation(socket)
        await socket.ask("channel.subscribe", {"channel": channel})
    worker = Bot(channel, chance)
    async with talking(redis_server, channel) as said:
        for dies in ("bot", "node", "both", "bot", "bot"):
            node = chance.choice(nodes)
            awake = asyncio.Event()
            life = asyncio.create_task(worker.live(ws(node), token, awake))
            waiting = asyncio.create_task(awake.wait())
            await asyncio.wait({life, waiting}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            await asyncio.sleep(chance.uniform(0, 0.2))  # a random moment
            if dies in ("bot", "both"):
                life.cancel()
            if dies in ("node", "both"):
                node.kill()
            await asyncio.wait({life}, timeout=10)
            if not life.done():  # it waits for an answer that its node took with it
                life.cancel()
                await asyncio.wait({life}, timeout=10)
            if not life.cancelled():
                life.result()
            if dies in ("node", "both"):
                await start(node)
    awake = asyncio.Event()
    life = asyncio.create_task(worker.live(ws(nodes[0]), token, awake))
    async with asyncio.timeout(20):
        while len(worker.ledger) < len(said) and not life.done():
            awake.clear()
            await awake.wait()
    life.cancel()
    await asyncio.wait({life}, timeout=20)
    assert worker.ledger == said
    assert len(said) > 100
    print(f"\n{len(said)} events, {worker.repeats} dealt with again after a death")


async def test_a_bot_on_the_sdk_deals_with_every_event_once_through_kills_of_its_node(
    nodes: tuple[HubProcess, HubProcess], redis_server: RedisProcess
) -> None:
    chance = random.Random(3)
    node, _ = nodes
    await start(node)
    token = await sign_in(node, "ada@hub.example", register=True)
    ledger: list[int] = []

    async def live(more: asyncio.Event) -> None:
        """One life of a bot that ends in order; its connection breaks meanwhile."""
        async with (
            connect(node.url, token=token, session_key="bot", backoff=QUICKLY) as hub,
            hub.subscribe(channel, "start") as events,
        ):
            async for event in events:
                ledger.append(event.data["value"])
                more.set()

    async with connect(node.url, token=token) as hub:
        channel = (await hub.conversations.create()).channel
    async with talking(redis_server, channel) as said:
        for _ in range(2):
            more = asyncio.Event()
            life = asyncio.create_task(live(more))
            await asyncio.wait_for(more.wait(), 20)
            await asyncio.sleep(chance.uniform(0, 0.3))  # a random moment
            node.kill()
            await start(node)
            before = len(ledger)
            while len(ledger) <= before:
                more.clear()
                await asyncio.wait_for(more.wait(), 20)
            life.cancel()
            await asyncio.wait({life}, timeout=20)
            assert ledger == said[: len(ledger)]
    assert len(ledger) > 100
