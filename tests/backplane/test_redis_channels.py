"""What a node asks of Redis's pub/sub: the channels that it reads, where they are; no others."""

from collections.abc import Sequence

import pytest

from hub.backplane.redis_keys import PARTITIONS, Keys, partition_of, slot_of
from tests.backplane.conftest import Nodes
from tests.backplane.sinks import Sink, eventually
from tests.parts.redis import RedisClusterProcesses, RedisProcess

READ = [f"conversation:c_read_{number}" for number in range(6)]


def _channels(server: RedisProcess, command: str) -> set[bytes]:
    """The channels of logs that somebody has subscribed to at a server."""
    with server.client() as client:
        return set(client.execute_command("PUBSUB", command, "*:entries:conversation:c_read_*"))


@pytest.mark.parametrize("kind", ["redis", "cluster"], indirect=True)
async def test_a_node_subscribes_to_what_it_reads_where_that_is_and_to_nothing_else(
    kind: str, nodes: Nodes, request: pytest.FixtureRequest
) -> None:
    servers: Sequence[RedisProcess]
    if kind == "cluster":
        cluster: RedisClusterProcesses = request.getfixturevalue("redis_cluster")
        servers, own, other = cluster.nodes, "SHARDCHANNELS", "CHANNELS"
        place = {name: cluster.master_of(slot_of(partition_of(name))) for name in READ}
    else:
        server: RedisProcess = request.getfixturevalue("redis_server")
        servers, own, other = [server], "CHANNELS", "SHARDCHANNELS"
        place = dict.fromkeys(READ, server)
    for name in READ:
        await nodes.one.subscribe(name, Sink())
        await nodes.two.append(f"{name}0", b"{}")  # nobody reads it
    entries = {name: Keys("hub").of(name).entries for name in READ}
    for each in servers:
        wanted = {entries[name] for name in READ if place[name] is each}
        assert _channels(each, own) == wanted
        assert _channels(each, other) == set()
    for name in READ:
        await nodes.one.unsubscribe(name)

    async def silent() -> bool:
        return not any(_channels(each, own) for each in servers)

    await eventually(silent)


def test_channels_are_spread_over_all_partitions_of_which_there_are_128_at_least() -> None:
    names = (f"conversation:c_{number}" for number in range(5_000))
    assert len({partition_of(name) for name in names}) == PARTITIONS
    assert PARTITIONS >= 128
