"""Presence that begins while the backplane is away."""

from collections.abc import Collection

import orjson

from hub.backplane.interface import WhisperSink
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.events.delivery import Delivery
from hub.events.presence import Presence
from hub.faults import Fault
from hub.telemetry.metrics import Metrics
from tests.backplane.sinks import eventually

CHANNEL = "conversation:c_1"
TTL_S = 0.3


class Switched(MemoryBackplane):
    """A node whose backplane can be away."""

    away = False

    async def overhear(self, channel: str, sink: WhisperSink) -> None:
        if self.away:
            raise Fault("backend_unavailable")
        await super().overhear(channel, sink)

    async def attend(
        self,
        channel: str,
        members: Collection[bytes],
        ttl_s: float,
        *,
        leave: Collection[bytes] = (),
    ) -> frozenset[bytes]:
        if self.away:
            raise Fault("backend_unavailable")
        return await super().attend(channel, members, ttl_s, leave=leave)


class Looker:
    """Who is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def deliver(self, delivery: Delivery) -> None:
        event = orjson.loads(delivery.event)
        self.told.append((event["name"], event["value"]["user_id"]))


async def test_a_seat_that_is_taken_then_is_seen_when_the_backplane_is_back() -> None:
    shared = MemoryShared()
    cut, well = Switched(shared), Switched(shared)
    here = Presence(cut, Metrics(), "n_1", TTL_S)
    there = Presence(well, Metrics(), "n_2", TTL_S)
    ada, bob = Looker(), Looker()
    his = await there.sit(CHANNEL, "u_bob", "Bob", bob)
    his.begin()
    cut.away = True
    hers = await here.sit(CHANNEL, "u_ada", "Ada", ada)
    hers.begin()
    assert [who.member.user_id for who in hers.present()] == []
    assert (ada.told, bob.told) == ([], [])
    cut.away = False

    async def both_told() -> bool:
        joined = "presence.joined"
        return (ada.told, bob.told) == ([(joined, "u_bob")], [(joined, "u_ada")])

    await eventually(both_told)
    await here.close()
    await there.close()
