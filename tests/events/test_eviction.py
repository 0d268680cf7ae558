"""A Redis that evicts: a log that it took a part of is another one, and its readers are told."""

import asyncio
import itertools
import random
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import pytest

from hub.backplane.interface import Appended, Position
from hub.backplane.redis import RedisBackplane
from hub.events.fanout import Fanout
from hub.telemetry.metrics import Metrics
from tests.backplane.sinks import eventually
from tests.events.readers import Follower
from tests.parts.figures import Figures
from tests.parts.redis import RedisProcess

CHANNELS: Final = [f"conversation:c_{number}" for number in range(40)]
ROOM: Final = 1024 * 1024
"""What Redis may hold beyond what it begins with; the logs would come to several times that."""
TOLD: Final = 60
"""Logs that readers have found lost when it is enough."""
STAY: Final = 15
"""Events after which every other reader leaves, and comes back to where it was."""


class Ledger:
    """What each position of each channel stands for. Another thing is an AssertionError."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, Position], bytes] = {}

    def note(self, channel: str, at: Position, data: bytes) -> None:
        assert self.entries.setdefault((channel, at), data) == data


class Reader:
    """Reads a channel on a node, through every end of its subscription. ``at`` is where it is;
    ``told`` counts how often it could not go on from where it was, and was told so.
    """

    def __init__(self, fanout: Fanout, channel: str, ledger: Ledger, stay: float) -> None:
        self.at: Position | None = None
        self.told = 0
        self._fanout = fanout
        self._channel = channel
        self._ledger = ledger
        self._stay = stay

    async def read(self) -> None:
        while True:
            follower = Follower()
            follower.on_deliver = lambda follower=follower: self._note(follower)  # type: ignore[misc]
            join = await follower.begin(self._fanout, self.at, self._channel)
            assert self.at is None or join.position == self.at or not join.recovered
            self.told += not join.recovered
            self.at = join.position
            await join.follow()
            try:
                await follower.until(
                    lambda follower=follower: (  # type: ignore[misc]
                        follower.reason is not None or len(follower.seen) >= self._stay
                    )
                )
            finally:
                follower.leave(self._fanout, self._channel)
            # A delivery that is not the next of its log is a fault, one that the ledger has
            # otherwise an internal error.
            assert (follower.faults, follower.reason or "resume_gap") == ([], "resume_gap")

    def _note(self, follower: Follower) -> None:
        last = follower.seen[-1]
        self.at = last.position
        self._ledger.note(self._channel, last.position, last.event)


@pytest.mark.parametrize("policy", ["allkeys-random", "volatile-lru"])
async def test_what_redis_evicts_is_another_log_and_who_reads_it_is_told_or_misses_nothing(
    policy: str, own_redis: RedisProcess, figures: Figures
) -> None:
    chance = random.Random(7)
    ledger = Ledger()
    nodes = [RedisBackplane(own_redis.url, node=name) for name in ("n_one", "n_two")]
    async with AsyncExitStack() as stack:
        for node in nodes:
            stack.push_async_callback(node.close)
            await node.start()
        fanout = Fanout(nodes[1], Metrics())
        stack.push_async_callback(fanout.close)
        redis = stack.enter_context(own_redis.client())
        redis.config_set("maxmemory-policy", policy)
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] + ROOM)
        numbers = itertools.count()

        async def append(channel: str) -> Appended:
            number = next(numbers)
            data = b'{"type":"CUSTOM","name":"%d","value":"%s"}' % (number, b"x" * 1000)
            key = None if number % 4 else f"key-{number}"
            appended = await nodes[number % 2].append(channel, data, key=key)
            ledger.note(channel, Position(appended.epoch, appended.seq), data)
            return appended

        readers = [
            Reader(fanout, channel, ledger, STAY if at % 2 else float("inf"))
            for at, channel in enumerate(CHANNELS)
        ]
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            reading = [group.create_task(reader.read()) for reader in readers]
            while sum(reader.told for reader in readers) < TOLD:
                await asyncio.gather(*(append(each) for each in chance.choices(CHANNELS, k=16)))
            evicted = redis.info("stats")["evicted_keys"]
            redis.config_set("maxmemory", 0)
            # From here on nothing is lost: all are where their logs are.
            for channel, reader in zip(CHANNELS, readers, strict=True):
                last = await append(channel)
                await eventually(partial(_is_at, reader, Position(last.epoch, last.seq)))
            for task in reading:
                task.cancel()
        figures(
            f"a Redis that evicts ({policy}): {evicted} keys of {next(numbers)} appends, "
            f"{sum(reader.told for reader in readers)} times a reader was told, none misled"
        )
        assert evicted > 0


async def _is_at(reader: Reader, position: Position) -> bool:
    return reader.at == position
