"""Local logs while the backplane is away: who reads has all that was said, and each thing once."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hub.backplane.interface import READ_BYTES, Appended, EntrySink, Lease, LeaseLost, LogSlice
from hub.backplane.limits import LogLimits
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.backplane.standby import StandbyBackplane
from hub.faults import Fault
from hub.telemetry.metrics import Metrics

T = TypeVar("T")
CHANNEL = "conversation:c_1"
TTL_S = 9.0


class Plugged(MemoryBackplane):
    """A node whose connection to what nodes share can be cut, before or after a thing is done."""

    away = False
    unsure = 0

    def __init__(self, shared: MemoryShared) -> None:
        super().__init__(shared)
        self._told: dict[str, EntrySink] = {}

    def _reached(self) -> None:
        if self.away:
            raise Fault("backend_unavailable")

    def mend(self) -> None:
        self.away = False
        self.unsure = 0
        for channel, sink in self._told.items():
            sink(channel, "", 0, b"")

    async def ping(self) -> None:
        self._reached()

    async def append(self, channel: str, data: bytes, **how: Any) -> Appended:
        if self.unsure:  # done, and nobody hears that it is
            self.unsure -= 1
            with suppress(LeaseLost):
                await super().append(channel, data, **how)
        self._reached()
        return await super().append(channel, data, **how)

    async def read(
        self, channel: str, after: int, limit: int = 1_000, most: int = READ_BYTES
    ) -> LogSlice:
        self._reached()
        return await super().read(channel, after, limit, most)

    async def subscribe(self, channel: str, sink: EntrySink) -> None:
        self._reached()
        self._told[channel] = sink

        def deliver(channel: str, epoch: str, seq: int, data: bytes) -> None:
            if not self.away:
                sink(channel, epoch, seq, data)

        await super().subscribe(channel, deliver)

    async def unsubscribe(self, channel: str) -> None:
        self._told.pop(channel, None)
        await super().unsubscribe(channel)

    async def acquire(self, name: str, ttl_s: float) -> Lease | None:
        self._reached()
        return await super().acquire(name, ttl_s)

    async def renew(self, lease: Lease, ttl_s: float) -> None:
        self._reached()
        await super().renew(lease, ttl_s)

    async def release(self, lease: Lease) -> None:
        self._reached()
        await super().release(lease)


class Pen:
    """A run that writes, as a run does: what it is asked to say again it says before the next."""

    def __init__(self, node: Any, lease: Lease, said: list[bytes]) -> None:
        self.node = node
        self.lease = lease
        self.said = said
        self.at: str | None = None
        self.restate = False
        self.shared = True

    async def say(self, data: bytes) -> None:
        if self.restate:
            await self.append(b"=" + b",".join(self.said), whole=True)
        self.said.append(data)
        await self.append(data)

    async def append(self, data: bytes, *, whole: bool = False) -> None:
        answer = await self.node.append(CHANNEL, data, lease=self.lease, whole=whole)
        moved = self.at is not None and answer.epoch != self.at
        self.restate = answer.restate or (moved and not whole)
        self.at = answer.epoch
        self.shared = answer.shared


def told(page: LogSlice) -> list[bytes]:
    """What somebody has who reads a log from its beginning."""
    has: list[bytes] = []
    for entry in page.entries:
        if entry.data.startswith(b"="):
            has = [part for part in entry.data[1:].split(b",") if part]
        else:
            has = [*has, entry.data]
    return has


class Reader:
    """Follows the channel on a node, and reads again only when it is told to or sees a gap."""

    def __init__(self) -> None:
        self.epoch = ""
        self.seq = 0
        self.has: list[bytes] = []
        self.stale = True

    def __call__(self, channel: str, epoch: str, seq: int, data: bytes) -> None:
        if epoch == self.epoch and seq <= self.seq:
            return
        if self.stale or epoch != self.epoch or seq != self.seq + 1:
            self.stale = True
            return
        self.seq = seq
        if data.startswith(b"="):
            self.has = [part for part in data[1:].split(b",") if part]
        else:
            self.has.append(data)

    def take(self, page: LogSlice) -> None:
        self.epoch, self.seq, self.has, self.stale = page.epoch, page.last, told(page), False


class Standby(RuleBasedStateMachine):
    """One node that is cut off now and then, and another that never is."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.now = 0.0
        self.shared = MemoryShared(LogLimits(), lambda: self.now)
        self.plug = Plugged(self.shared)
        self.node = StandbyBackplane(self.plug, Metrics())
        self.other = MemoryBackplane(self.shared)
        self.reader = Reader()
        self.said: list[bytes] = []
        self.pen: Pen | None = None
        self.numbers = 0
        self.fenced = False
        self.followed = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work)

    def teardown(self) -> None:
        self.loop.close()

    @initialize()
    def begin(self) -> None:
        lease = self.run(self.node.acquire(CHANNEL, TTL_S))
        assert lease is not None
        self.pen = Pen(self.node, lease, self.said)
        self.follow()

    @precondition(lambda self: self.pen)
    @rule()
    def say(self) -> None:
        assert self.pen is not None
        self.numbers += 1
        before = len(self.said)
        try:
            self.run(self.pen.say(b"%d" % self.numbers))
        except LeaseLost:
            assert self.fenced, "nobody else had it"
            self.said.clear()
            self.said += told(self.run(self.other.read(CHANNEL, 0)))
            self.run(self._release())
        except Fault:
            assert self.fenced, "a run that holds its lease goes on"
            del self.said[before:]

    async def _release(self) -> None:
        assert self.pen is not None
        pen, self.pen = self.pen, None
        try:
            await self.node.release(pen.lease)
        except Fault:
            assert self.plug.away

    @precondition(lambda self: not self.plug.away)
    @rule()
    def cut(self) -> None:
        self.plug.away = True

    @precondition(lambda self: not self.plug.away and self.pen)
    @rule()
    def cut_after_the_next_append(self) -> None:
        self.plug.away = True
        self.plug.unsure = 1

    @precondition(lambda self: self.plug.away)
    @rule()
    def mend(self) -> None:
        self.plug.mend()
        self.keep()

    def keep(self) -> None:
        """What the keeper of a lease does."""
        if self.pen is None or self.plug.away:
            return
        try:
            self.run(self.node.renew(self.pen.lease, TTL_S))
        except LeaseLost:
            assert self.fenced, "nobody else had it"

    @rule()
    def look(self) -> None:
        self.run(self.node.look())

    @rule()
    def time_passes(self) -> None:
        self.now += TTL_S + 1
        self.keep()

    @precondition(lambda self: self.pen and self.plug.away and not self.fenced)
    @rule()
    def somebody_else_takes_the_run(self) -> None:
        lease = self.run(self.other.acquire(CHANNEL, 10_000.0))
        if lease is not None:
            self.fenced = True
            taken = Pen(self.other, lease, [])
            self.run(taken.append(b"=taken", whole=True))

    @rule()
    def leave_or_follow(self) -> None:
        if self.followed:
            self.run(self.node.unsubscribe(CHANNEL))
            self.followed = False
        else:
            self.follow()

    def follow(self) -> None:
        try:
            self.run(self.node.subscribe(CHANNEL, self.reader))
        except Fault:
            return
        self.followed = True
        self.reader.stale = True

    @invariant()
    def who_reads_here_has_all_that_was_said(self) -> None:
        try:
            page = self.run(self.node.read(CHANNEL, 0))
        except Fault:
            return
        local = self.node._locals.get(CHANNEL)
        if local is not None and local.open:
            assert told(page) == self.said or self.pen is None
        elif self.pen is not None and local is None and not self.fenced:
            assert told(page) == self.said
        if self.followed:
            if self.reader.stale:
                self.reader.take(page)
            assert (self.reader.epoch, self.reader.has) == (page.epoch, told(page))

    @invariant()
    def a_run_that_was_taken_says_nothing_more_in_the_shared_log(self) -> None:
        if self.fenced:
            page = self.run(self.other.read(CHANNEL, 0))
            assert page.entries[-1].data == b"=taken"


Standby.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestStandby = Standby.TestCase


async def test_only_the_holder_of_the_lease_gets_a_local_log() -> None:
    plug = Plugged(MemoryShared())
    node = StandbyBackplane(plug, Metrics())
    lease = await node.acquire(CHANNEL, TTL_S)
    assert lease is not None
    plug.away = True
    for stranger in (None, Lease(CHANNEL, lease.token - 1)):
        with pytest.raises(Fault, match="backend_unavailable"):
            await node.append(CHANNEL, b"x", lease=stranger)
    assert not (await node.append(CHANNEL, b"x", lease=lease)).shared
    with pytest.raises(LeaseLost):
        await node.append(CHANNEL, b"x", lease=Lease(CHANNEL, lease.token - 1))


async def test_a_backplane_that_answers_and_refuses_an_append_is_not_away() -> None:
    class Full(Plugged):
        async def append(self, channel: str, data: bytes, **how: Any) -> Appended:
            raise Fault("backend_unavailable", "out of memory")

    node = StandbyBackplane(Full(MemoryShared()), Metrics())
    lease = await node.acquire(CHANNEL, TTL_S)
    with pytest.raises(Fault, match="out of memory"):
        await node.append(CHANNEL, b"x", lease=lease)


async def test_all_local_logs_together_stay_within_their_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hub.backplane.standby.LOCAL_BYTES", 10_000)
    plug = Plugged(MemoryShared())
    node = StandbyBackplane(plug, Metrics())
    names = [f"conversation:c_{at}" for at in range(5)]
    leases = [await node.acquire(name, TTL_S) for name in names]
    plug.away = True
    for _ in range(10):
        for name, lease in zip(names, leases, strict=True):
            answer = await node.append(name, b"x" * 1_000, lease=lease, whole=True)
            assert not answer.shared
            assert node._shared.logs.bytes <= 10_000
    # Who wrote last is there; who was dropped begins another log, and says so.
    assert (await node.read(names[-1], 0)).entries


async def test_hints_are_given_up_at_once_while_it_is_away_and_metrics_tell() -> None:
    plug = Plugged(MemoryShared())
    metrics = Metrics()
    node = StandbyBackplane(plug, metrics)
    lease = await node.acquire(CHANNEL, TTL_S)
    plug.away = True
    await node.look()
    with pytest.raises(Fault):
        await node.enqueue("runs", "x")
    with pytest.raises(Fault):
        await node.publish("topic", b"x")
    await node.append(CHANNEL, b"=", lease=lease, whole=True)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("hub_backplane_away") == 1
    assert value("hub_local_logs") == 1
    plug.mend()
    await node.look()
    assert (await node.append(CHANNEL, b"x", lease=lease)).restate
    assert (await node.append(CHANNEL, b"=x", lease=lease, whole=True)).shared
    assert value("hub_backplane_away") == 0
    assert value("hub_local_logs") == 0
    assert value("hub_log_switches_total", to="local") == 1
    assert value("hub_log_switches_total", to="shared") == 1


class Slow(Plugged):
    """A node whose subscriptions take as long as the test wants."""

    def __init__(self, shared: MemoryShared) -> None:
        super().__init__(shared)
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def subscribe(self, channel: str, sink: EntrySink) -> None:
        self.asked.set()
        await self.go.wait()
        await super().subscribe(channel, sink)


async def test_a_channel_that_is_left_while_it_comes_back_is_followed_no_more() -> None:
    shared = MemoryShared()
    remote = Slow(shared)
    node = StandbyBackplane(remote, Metrics())
    lease = await node.acquire(CHANNEL, TTL_S)
    remote.away = True
    await node.append(CHANNEL, b"beginning", lease=lease)
    await node.append(CHANNEL, b"all", lease=lease, whole=True)
    await node.subscribe(CHANNEL, lambda *entry: None)  # to the local log alone
    remote.mend()
    coming_back = asyncio.create_task(node.look())
    async with asyncio.timeout(5):
        await remote.asked.wait()
        await node.unsubscribe(CHANNEL)
        remote.go.set()
        await coming_back
    assert (node._subscribed, shared.sinks) == (set(), {})
