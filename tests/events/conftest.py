"""Two nodes of a backplane, memory and a real Redis in turn, with a fan-out on the second."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import cast

import pytest

from hub.backplane.interface import Backplane
from hub.backplane.limits import LogLimits
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.backplane.redis import RedisBackplane
from hub.events.fanout import Fanout
from hub.telemetry.metrics import Metrics
from tests.events.readers import CHANNEL, Held
from tests.parts.redis import RedisProcess


@dataclass(frozen=True)
class House:
    """``publisher`` is another node than ``here``, on which ``fanout`` serves readers. ``lose``
    makes the backplane forget everything.
    """

    publisher: Backplane
    here: Held
    fanout: Fanout
    lose: Callable[[], None]

    async def append(self, count: int = 1) -> None:
        for _ in range(count):
            await self.publisher.append(CHANNEL, b'{"type":"CUSTOM"}')


@pytest.fixture
def limits() -> LogLimits:
    """What the log keeps; a test that needs other limits parametrises this."""
    return LogLimits()


@pytest.fixture(params=["memory", "redis"])
async def house(request: pytest.FixtureRequest, limits: LogLimits) -> AsyncIterator[House]:
    if request.param == "memory":
        shared = MemoryShared(limits)
        one: Backplane = MemoryBackplane(shared)
        two: Backplane = MemoryBackplane(shared)
        lose = shared.clear
    else:
        server: RedisProcess = request.getfixturevalue("redis_server")
        one = RedisBackplane(server.url, node="n_one", limits=limits)
        two = RedisBackplane(server.url, node="n_two", limits=limits)

        def lose() -> None:
            with server.client() as client:
                client.flushall()

    async with AsyncExitStack() as stack:
        for node in (one, two):
            stack.push_async_callback(node.close)
            await node.start()
        held = Held(two)
        fanout = Fanout(cast(Backplane, held), Metrics())
        stack.push_async_callback(fanout.close)
        yield House(one, held, fanout, lose)
