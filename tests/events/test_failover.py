"""A Redis Cluster one of whose masters dies: nodes say so, its replica takes over, and readers go
on.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
import pytest

from hub.backplane.redis import RedisBackplane
from hub.backplane.redis_keys import partition_of, slot_of
from hub.events.fanout import Fanout
from hub.telemetry.metrics import Metrics
from tests.backplane.sinks import eventually
from tests.backplane.test_redis_faults import append_when_back
from tests.events.readers import CHANNEL, Follower
from tests.parts.figures import Figures
from tests.parts.hub import ServedHub, ServeHub
from tests.parts.redis import RedisClusterProcesses


class Nodes(NamedTuple):
    """Two nodes of the hub; readers are on ``here``."""

    there: RedisBackplane
    here: RedisBackplane
    fanout: Fanout


@pytest.fixture
async def nodes(own_redis_cluster: RedisClusterProcesses) -> AsyncIterator[Nodes]:
    there = RedisBackplane(own_redis_cluster.url, node="n_there")
    here = RedisBackplane(own_redis_cluster.url, node="n_here")
    fanout = Fanout(here, Metrics())
    for node in (there, here):
        await node.start()
    yield Nodes(there, here, fanout)
    await fanout.close()
    for node in (there, here):
        await node.close()


@pytest.fixture
async def hub(
    own_redis_cluster: RedisClusterProcesses, serve_hub: ServeHub
) -> AsyncIterator[ServedHub]:
    async with serve_hub(worker=False, HUB_REDIS_URL=own_redis_cluster.url) as hub:
        yield hub


async def says(hub: ServedHub, status: int) -> float:
    """Ask a node whether it is ready until it answers so; when that is, of ``time.monotonic()``."""
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:

        async def said() -> bool:
            answer = await client.get("/health/ready")
            told = answer.json()["backplane"]["status"]
            return (answer.status_code, told) == (status, "up" if status == 200 else "down")

        await eventually(said)
    return time.monotonic()


async def goes_and_comes_back(hub: ServedHub) -> tuple[float, float]:
    """When a node says that it is not ready, and that it is again, which is so."""
    away, back = await says(hub, 503), await says(hub, 200)
    assert await hub.hub.services.backplane.cache_set(CHANNEL, b"kept where the channel is", 1)
    return away, back


async def test_a_replica_that_takes_over_is_heard_and_nothing_after_that_is_missed(
    own_redis_cluster: RedisClusterProcesses, nodes: Nodes, hub: ServedHub, figures: Figures
) -> None:
    cluster, (there, here, fanout) = own_redis_cluster, nodes
    master = cluster.master_of(slot_of(partition_of(CHANNEL)))
    replica = await asyncio.to_thread(cluster.replicate, master)
    reader = await Follower().follow(fanout, None)
    await there.append(CHANNEL, b"0")
    await reader.reaches(1)
    await says(hub, 200)

    began = time.monotonic()
    master.kill()
    telling = asyncio.create_task(goes_and_comes_back(hub))
    first = await append_when_back(there, b"1")
    away_s = time.monotonic() - began
    # What has happened by the time that this node hears again was told to nobody.
    await asyncio.gather(*(there.append(CHANNEL, b"%d" % at) for at in range(2, 20)))
    await reader.until(lambda: reader.reason is not None)
    heard_s = time.monotonic() - began
    unready_s, ready_s = (at - began for at in await telling)
    figures(
        f"a master of a cluster dies: a node is unready after {unready_s:.1f} s and ready after "
        f"{ready_s:.1f} s, appends after {away_s:.1f} s, heard after {heard_s:.1f} s"
    )
    assert unready_s < 2

    # Another server cannot vouch for the log, so it is another one, and whole.
    assert (reader.reason, reader.faults) == ("resume_gap", [])
    join = await Follower().begin(fanout, reader.at)
    assert (join.recovered, join.position.epoch) == (False, first.epoch)
    join.abandon()
    again = await Follower().follow(fanout, "start")
    await again.reaches(19)
    live = await there.append(CHANNEL, b"20")
    await again.reaches(live.seq)
    assert again.seqs == list(range(1, 21))
    alive = {node.port for node in (*cluster.nodes, replica)} - {master.port}

    async def nothing_is_left_of_the_server_that_is_gone() -> bool:
        await here._topology.refresh()
        servers = here._topology._servers.values()
        return {server.address[1] for server in servers} == alive

    await eventually(nothing_is_left_of_the_server_that_is_gone)
    assert {server.address[1] for server in here._subscriber._receivers} <= alive
