"""Two nodes of each backplane, and how to make it lose what it holds."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from hub.backplane.interface import Backplane
from hub.backplane.limits import LogLimits
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.backplane.memory_server import MemoryServer
from hub.backplane.redis import RedisBackplane
from hub.backplane.remote_memory import RemoteMemory
from hub.backplane.standby import StandbyBackplane
from hub.cli.kept import joint
from hub.telemetry.metrics import Metrics
from tests.parts.redis import RedisClusterProcesses, RedisProcess

LIMITS = LogLimits(entries=10, ttl_s=60, key_ttl_s=60)
BRIEF = LogLimits(entries=10, ttl_s=0.15, key_ttl_s=0.15)

KINDS = ("memory", "remote", "redis", "cluster", "standby")


@dataclass(frozen=True)
class Nodes:
    """Two nodes of one backplane. ``lose`` makes it forget everything; ``more`` makes a third
    node, with limits of its own where the backplane keeps them per node.
    """

    kind: str
    one: Backplane
    two: Backplane
    lose: Callable[[], None]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def limits() -> LogLimits:
    """What the nodes keep; a test that needs other limits parametrises this."""
    return LIMITS


def remote(server: MemoryServer, lost: Callable[[], None] | None = None) -> RemoteMemory:
    """A node that the server serves."""
    theirs, ours = joint()
    server.admit(theirs)
    return RemoteMemory(ours, lost)


@pytest_asyncio.fixture
async def nodes(
    kind: str, limits: LogLimits, request: pytest.FixtureRequest
) -> AsyncIterator[Nodes]:
    if kind == "memory":
        shared = MemoryShared(limits)
        one: Backplane = MemoryBackplane(shared)
        two: Backplane = MemoryBackplane(shared)
        lose = shared.clear
    elif kind == "remote":
        shared = MemoryShared(limits)
        server = MemoryServer(shared)
        one, two = remote(server), remote(server)
        lose = shared.clear
    elif kind in ("redis", "standby"):
        redis: RedisProcess = request.getfixturevalue("redis_server")
        one = RedisBackplane(redis.url, node="n_one", limits=limits)
        two = RedisBackplane(redis.url, node="n_two", limits=limits)
        if kind == "standby":
            one, two = StandbyBackplane(one, Metrics()), StandbyBackplane(two, Metrics())

        def lose() -> None:
            with redis.client() as client:
                client.flushall()

    else:
        cluster: RedisClusterProcesses = request.getfixturevalue("redis_cluster")
        one = RedisBackplane(cluster.url, node="n_one", limits=limits)
        two = RedisBackplane(cluster.url, node="n_two", limits=limits)
        lose = cluster.flush
    async with AsyncExitStack() as stack:
        for node in (one, two):
            stack.push_async_callback(node.close)
            await node.start()
        yield Nodes(kind, one, two, lose)
