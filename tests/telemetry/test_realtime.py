"""What the metrics say of sockets that stall, and of the way through the backplane."""

import re
from collections.abc import Awaitable, Callable

import pytest

from hub.backplane.memory import MemoryBackplane
from hub.backplane.pulse import Pulse
from hub.backplane.redis import RedisBackplane
from hub.events.vocabulary import text_content
from hub.telemetry.metrics import Metrics
from tests.interaction.drivers import eventually, open_socket
from tests.parts.hub import ServedHub
from tests.parts.redis import RedisClusterProcesses, RedisProcess
from tests.transports.test_closing import stalling
from tests.transports.test_slow import _subscribe


def _page(metrics: Metrics) -> str:
    return metrics.exposition("")[0].decode()


def _value(page: str, sample: str) -> float:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", page, re.MULTILINE)
    assert found is not None, sample
    return float(found[1])


async def test_what_waits_for_a_stalled_reader_is_seen_and_a_turn_s_writing_is_timed(
    served_hub: ServedHub,
) -> None:
    token = (await served_hub.sign_up("ada@hub.example"))["access_token"]
    async with open_socket(served_hub.ws_url, token) as socket:
        channel = f"conversation:{(await socket.ask('conversation.create'))['id']}"
        metrics = served_hub.hub.services.metrics
        async with stalling(served_hub, token) as stalled:
            await _subscribe(stalled, channel)
            while True:
                for _ in range(200):
                    await served_hub.hub.services.backplane.append(
                        channel, text_content("m_1", "word " * 40)
                    )
                await socket.ask("session.ping")  # turns of the loop
                if sum(served_hub.hub.socket.connections.waiting()) > 65_536:
                    break
            page = _page(metrics)
            assert _value(page, 'hub_outbox_bytes_bucket{le="+Inf"}') == 2
            assert _value(page, 'hub_outbox_bytes_bucket{le="0.0"}') == 1
            assert _value(page, 'hub_outbox_bytes_bucket{le="65536.0"}') == 1
            assert _value(page, "hub_fanout_seconds_count") > 5
    await eventually(_nobody(served_hub))
    assert _value(_page(metrics), 'hub_outbox_bytes_bucket{le="+Inf"}') == 0


def _nobody(hub: ServedHub) -> Callable[[], Awaitable[bool]]:
    async def nobody() -> bool:
        return not len(hub.hub.socket.connections)

    return nobody


@pytest.mark.parametrize("kind", ["memory", "redis", "cluster"])
async def test_a_node_times_a_message_to_itself_also_after_the_backplane_was_away(
    kind: str, own_redis: RedisProcess, redis_cluster: RedisClusterProcesses
) -> None:
    metrics = Metrics()
    url = redis_cluster.url if kind == "cluster" else own_redis.url
    backplane = MemoryBackplane() if kind == "memory" else RedisBackplane(url, node="n_1")
    await backplane.start()
    pulse = Pulse(backplane, metrics, "n_1", every_s=0.02)
    await pulse.start()

    def timed() -> float:
        return _value(_page(metrics), "hub_pubsub_lag_seconds_count")

    async def more() -> bool:
        return timed() > before

    try:
        before = 2.0
        await eventually(more)
        if kind == "redis":
            own_redis.restart()
            before = timed() + 2
            await eventually(more)
    finally:
        await pulse.close()
        await backplane.close()
