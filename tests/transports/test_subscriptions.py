"""The channels of one connection, while their replays are under way."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from hub.backplane.interface import Backplane
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.events.fanout import AT_HAND_BYTES, Fanout, Join
from hub.events.position import Since
from hub.telemetry.metrics import Metrics
from hub.transports.subscriptions import REPLAYS, Subscriptions
from tests.events.readers import CHANNEL, Follower, Held


async def allowed(channel: str) -> None:
    """It is."""


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Seated:
    """A connection's subscriptions, and the node that they are on."""

    def __init__(self) -> None:
        self.backplane = Held(cast(Backplane, MemoryBackplane(MemoryShared())))
        self.fanout = Fanout(cast(Backplane, self.backplane), Metrics())
        self.reader = Follower()
        self.subscriptions = Subscriptions(
            self.fanout, self.reader, self.reader.ended, lambda channel: None
        )

    async def append(self, channel: str = CHANNEL, count: int = 1, data: bytes = b"{}") -> None:
        for _ in range(count):
            await self.backplane.append(channel, data)

    async def asked(self, since: Since, channel: str = CHANNEL) -> Join:
        """A subscription that is noted, and not answered yet."""
        join = await self.reader.begin(self.fanout, since, channel)
        self.subscriptions.add(channel, join, None)
        return join

    async def subscribe(self, since: Since, channel: str = CHANNEL) -> asyncio.Task[None]:
        join = await self.asked(since, channel)
        following = asyncio.create_task(self.subscriptions.follow(channel, join, allowed))
        await settle()
        return following


@pytest.fixture
async def seated() -> AsyncIterator[Seated]:
    seated = Seated()
    yield seated
    await seated.fanout.close()


async def test_who_leaves_in_the_midst_of_a_replay_and_comes_back_is_told_what_follows(
    seated: Seated,
) -> None:
    await seated.append(count=3)
    seated.reader.stall()
    left = await seated.subscribe("start")
    seated.subscriptions.drop(CHANNEL)
    back = await seated.subscribe(None)  # live at once
    seated.reader.read_on()
    await asyncio.gather(left, back)
    await seated.append()
    await seated.reader.reaches(4)
    assert seated.reader.seqs == [4]


async def test_a_few_channels_of_a_connection_are_replayed_at_a_time(seated: Seated) -> None:
    channels = [f"conversation:c_{number}" for number in range(3 * REPLAYS)]
    for channel in channels:
        await seated.append(channel, 2, bytes(AT_HAND_BYTES + 1))  # which is not at hand
    seated.reader.on_deliver = seated.reader.faults.clear  # it takes many channels for one
    seated.reader.stall()
    follows = [await seated.subscribe("start", channel) for channel in channels]
    before = seated.backplane.reads
    seated.backplane.pause_reads()
    seated.reader.read_on()
    await settle()
    assert seated.backplane.reads - before == REPLAYS
    seated.subscriptions.drop(channels[-1])  # it waits for its turn, which it needs no more
    seated.backplane.resume_reads()
    await asyncio.gather(*follows)
    heard = {channel: [d.seq for d in seated.reader.seen if d.channel == channel]
             for channel in channels}  # fmt: skip
    assert heard == {channel: [1, 2] for channel in channels[:-1]} | {channels[-1]: []}


async def test_that_a_subscription_has_ended_is_told_after_its_answer(seated: Seated) -> None:
    join = await seated.asked(None)
    assert seated.subscriptions.end(CHANNEL, "permission_denied")
    assert not seated.subscriptions.end(CHANNEL, "not_found")  # it has ended already
    assert seated.reader.reason is None
    await seated.subscriptions.follow(CHANNEL, join, allowed)  # the answer is on its way
    assert seated.reader.reason == "permission_denied"
    await seated.append()
    await settle()
    assert (seated.reader.seen, seated.fanout.followed()) == ([], [])


async def test_what_is_ended_after_its_answer_is_told_at_once(seated: Seated) -> None:
    await (await seated.subscribe(None))
    seated.subscriptions.end(CHANNEL, "permission_denied")
    assert (seated.reader.reason, len(seated.subscriptions)) == ("permission_denied", 0)
