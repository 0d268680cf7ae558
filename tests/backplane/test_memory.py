"""The memory backplane beside a model of it, and what only it can show."""

import asyncio
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hub.backplane.interface import Lease, LeaseLost
from hub.backplane.limits import LogLimits
from hub.backplane.memory import FENCE_S, MemoryBackplane, MemoryShared
from tests.backplane.sinks import Sink

LIMITS = LogLimits(entries=4, ttl_s=100, key_ttl_s=30)
CHANNELS = st.sampled_from(["a", "b"])
KEYS = st.sampled_from(["k1", "k2", "k3", None])


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class MemoryModel(RuleBasedStateMachine):
    """Plain lists of everything that ever happened, against the backplane."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.shared = MemoryShared(LIMITS, self.clock)
        self.nodes = [MemoryBackplane(self.shared), MemoryBackplane(self.shared)]
        self.sink = Sink()
        for channel in ("a", "b"):
            self.run(self.nodes[1].subscribe(channel, self.sink))
        self.logs: dict[str, list[bytes]] = {"a": [], "b": []}
        self.epochs: dict[str, str] = {}
        self.old_epochs: set[str] = set()
        self.ends: dict[str, float] = {}
        self.keys: dict[tuple[str, str], tuple[float, int]] = {}
        self.holders: dict[str, tuple[float, Lease]] = {}
        self.leases: list[Lease] = []
        self.published: list[tuple[str, str, int, bytes]] = []
        self.written = 0

    def run(self, call: Any) -> Any:
        # Nothing of the memory backplane waits, so a coroutine ends with its first step.
        try:
            call.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("it waited")

    def _expire(self, channel: str) -> None:
        if channel in self.epochs and self.ends[channel] <= self.clock.now:
            self._lose(channel)

    def _lose(self, channel: str) -> None:
        if channel in self.epochs:
            self.old_epochs.add(self.epochs.pop(channel))
        self.logs[channel] = []
        self.keys = {key: known for key, known in self.keys.items() if key[0] != channel}

    def _epoch(self, channel: str, epoch: str) -> None:
        assert epoch not in self.old_epochs
        assert self.epochs.setdefault(channel, epoch) == epoch

    def _held(self, lease: Lease) -> bool:
        until, holder = self.holders.get(lease.name, (0.0, None))
        return holder == lease and until > self.clock.now

    @rule(channel=CHANNELS, key=KEYS, node=st.integers(0, 1), fence=st.none() | st.integers(0, 9))
    def append(self, channel: str, key: str | None, node: int, fence: int | None) -> None:
        self._expire(channel)
        self.written += 1
        data = b"%d" % self.written
        mine = [lease for lease in self.leases if lease.name == channel]
        lease = mine[fence % len(mine)] if mine and fence is not None else None
        call = self.nodes[node].append(channel, data, key=key, lease=lease)
        if lease is not None and not self._held(lease):
            with pytest.raises(LeaseLost):
                self.run(call)
            return
        answer = self.run(call)
        self._epoch(channel, answer.epoch)
        until, first = self.keys.get((channel, key or ""), (0.0, 0))
        if key is not None and until > self.clock.now:
            assert (answer.seq, answer.duplicate) == (first, True)
            return
        self.logs[channel].append(data)
        self.ends[channel] = self.clock.now + LIMITS.ttl_s
        assert (answer.seq, answer.duplicate) == (len(self.logs[channel]), False)
        if key is not None:
            self.keys[channel, key] = (self.clock.now + LIMITS.key_ttl_s, answer.seq)
        self.published.append((channel, answer.epoch, answer.seq, data))

    @rule(channel=CHANNELS, after=st.integers(-1, 12), limit=st.integers(0, 5))
    def read(self, channel: str, after: int, limit: int) -> None:
        self._expire(channel)
        if channel not in self.epochs:
            self.ends[channel] = self.clock.now + LIMITS.ttl_s
        held = self.run(self.nodes[0].read(channel, after, limit))
        self._epoch(channel, held.epoch)
        everything = list(enumerate(self.logs[channel], 1))
        kept = everything[-LIMITS.entries :]
        assert held.last == len(everything)
        assert held.first == (kept[0][0] if kept else held.last + 1)
        assert [tuple(entry) for entry in held.entries] == [
            entry for entry in kept if entry[0] > after
        ][:limit]

    @rule(channel=CHANNELS, node=st.integers(0, 1), ttl=st.sampled_from([5.0, 50.0]))
    def acquire(self, channel: str, node: int, ttl: float) -> None:
        lease = self.run(self.nodes[node].acquire(channel, ttl))
        until, _ = self.holders.get(channel, (0.0, None))
        if until > self.clock.now:
            assert lease is None
            return
        assert lease is not None
        assert all(lease.token > other.token for other in self.leases)
        self.leases.append(lease)
        self.holders[channel] = (self.clock.now + ttl, lease)

    @rule(at=st.integers(0, 9), ttl=st.sampled_from([5.0, 50.0]), release=st.booleans())
    def renew_or_release(self, at: int, ttl: float, release: bool) -> None:
        if not self.leases:
            return
        lease = self.leases[-1 - at % len(self.leases)]
        until, holder = self.holders.get(lease.name, (0.0, None))
        # One that has lapsed is held again, if nobody has taken or given it back since.
        held = holder == lease and until + FENCE_S > self.clock.now
        if release:
            self.run(self.nodes[0].release(lease))
            if held:
                del self.holders[lease.name]
        elif held:
            self.run(self.nodes[0].renew(lease, ttl))
            self.holders[lease.name] = (self.clock.now + ttl, lease)
        else:
            with pytest.raises(LeaseLost):
                self.run(self.nodes[0].renew(lease, ttl))

    @rule(seconds=st.sampled_from([1.0, 6.0, 31.0, 101.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def lose(self) -> None:
        self.shared.clear()
        self._lose("a")
        self._lose("b")
        self.holders.clear()

    @invariant()
    def subscribers_saw_exactly_what_was_appended(self) -> None:
        assert self.sink.seen == self.published


MemoryModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMemoryModel = MemoryModel.TestCase


@given(
    st.lists(
        st.tuples(st.floats(0.001, 20), st.floats(0, 3)),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from([0.5, 1.0, 7.0]),
    st.sampled_from([1.0, 10.0]),
)
async def test_a_bucket_never_gives_more_than_burst_and_refill(
    takes: list[tuple[float, float]], rate: float, burst: float
) -> None:
    clock = Clock()
    node = MemoryBackplane(MemoryShared(clock=clock))
    given_out = 0.0
    for cost, passed in takes:
        clock.now += passed
        wait_ms = await node.take("b", cost, rate=rate, burst=burst)
        if wait_ms == 0:
            given_out += min(cost, burst)
        else:
            clock.now += wait_ms / 1000
            assert await node.take("b", cost, rate=rate, burst=burst) == 0
            given_out += min(cost, burst)
        assert given_out <= burst + rate * clock.now + 1e-6


async def test_a_sink_that_appends_does_not_disturb_the_order_of_others() -> None:
    shared = MemoryShared()
    node, other = MemoryBackplane(shared), MemoryBackplane(shared)
    sink = Sink()

    def echo(channel: str, epoch: str, seq: int, data: bytes) -> None:
        if seq <= 3:
            call = node.append(channel, b"echo of %d" % seq)
            with pytest.raises(StopIteration):  # nothing in it waits
                call.send(None)

    await node.subscribe("a", echo)
    await other.subscribe("a", sink)  # called after the one that appends
    await node.append("a", b"first")
    assert sink.seqs == [1, 2, 3, 4]
    assert sink.data == [b"first", b"echo of 1", b"echo of 2", b"echo of 3"]


async def test_what_has_expired_leaves_the_memory() -> None:
    clock = Clock()
    shared = MemoryShared(LogLimits(entries=4, ttl_s=10, key_ttl_s=5), clock)
    node = MemoryBackplane(shared)
    for at in range(5_000):
        clock.now += 0.1
        await node.append(f"c{at}", b"x", key="k")
        await node.append("busy", b"x", key=f"k{at}")
        await node.cache_set(f"k{at}", b"v", 3)
        await node.cache_delete("k0")
        await node.cache_set("k0", b"v", 1_000_000)  # deleted and set again, for ever
        await node.take(f"b{at}", 1, rate=1, burst=1)
        assert await node.acquire(f"l{at}", 2) is not None
    assert len(shared.logs) < 200
    assert len(shared.cache) < 100
    assert len(shared.buckets) < 100
    assert len(shared.leases) < 100
    busy = shared.logs.get("busy", clock.now)
    assert busy is not None
    assert len(busy.keys) < 100


async def test_a_log_is_trimmed_to_its_bytes_but_keeps_its_newest_entry() -> None:
    shared = MemoryShared(LogLimits(log_bytes=100))
    node = MemoryBackplane(shared)
    for at in range(30):
        await node.append("a", b"%02d" % at * 15)
    page = await node.read("a", 0)
    assert (page.first, page.last) == (28, 30)
    assert [entry.data[:2] for entry in page.entries] == [b"27", b"28", b"29"]
    assert shared.logs.bytes == 90
    await node.append("a", b"x" * 1_000)
    page = await node.read("a", 0)
    assert (page.first, [entry.seq for entry in page.entries]) == (31, [31])
    await node.append("a", b"small")
    page = await node.read("a", 0)
    assert (page.first, [entry.seq for entry in page.entries]) == (32, [32])
    assert shared.logs.bytes == 5


async def test_of_too_many_bytes_in_all_the_log_without_news_is_lost_first() -> None:
    shared = MemoryShared(LogLimits(total_bytes=100))
    node = MemoryBackplane(shared)
    epochs = {}
    for channel in ("a", "b", "c"):
        epochs[channel] = (await node.append(channel, b"x" * 30)).epoch
    await node.append("a", b"y")
    await node.read("b", 0)  # being read is not news
    await node.append("c", b"z" * 30)
    assert shared.logs.bytes == 91
    for channel in ("a", "c"):
        page = await node.read(channel, 0)
        assert (page.epoch, page.first, page.last) == (epochs[channel], 1, 2)
    lost = await node.read("b", 0)
    assert lost.epoch != epochs["b"]
    assert (lost.first, lost.last, lost.entries) == (1, 0, ())
    await node.append("b", b"x" * 1_000)  # alone too much, and held all the same
    assert len((await node.read("b", 0)).entries) == 1
    assert shared.logs.bytes == 1_000


async def test_the_bytes_of_logs_that_expired_or_were_lost_are_not_counted() -> None:
    clock = Clock()
    shared = MemoryShared(LogLimits(entries=2, ttl_s=10), clock)
    node = MemoryBackplane(shared)
    for at in range(20):
        for _ in range(5):
            await node.append(f"c{at}", b"x" * 10)
    assert shared.logs.bytes == 20 * 2 * 10
    clock.now += 11
    await node.append("c19", b"x")  # expired itself, and not in front
    for at in range(10):
        await node.append(f"new{at}", b"x")
    assert (len(shared.logs), shared.logs.bytes) == (11, 11)
    shared.clear()
    assert (len(shared.logs), shared.logs.bytes) == (0, 0)


async def test_an_item_that_was_given_to_who_is_cancelled_is_given_to_another() -> None:
    node = MemoryBackplane()
    quitter = asyncio.create_task(node.dequeue("q", 5))
    await asyncio.sleep(0)
    await node.enqueue("q", "r_1")
    quitter.cancel()
    await asyncio.wait({quitter})
    assert quitter.cancelled()
    assert await node.dequeue("q", 0) == "r_1"


async def test_what_is_held_takes_no_more_memory_than_its_bytes_whoever_encoded_it() -> None:
    backplane = MemoryBackplane()

    def encoded(number: int) -> bytes:
        return orjson.dumps({"delta": f"{number:0200}"})

    async def hold(first: int) -> None:
        for number in range(first, first + 500):
            await backplane.append("a channel", encoded(number))
            await backplane.cache_set(f"{number}", encoded(number), 60)
            await backplane.attend("a channel", [encoded(number)], 60)

    await hold(0)
    tracemalloc.start()
    try:
        await hold(500)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / (3 * 500) < 3 * len(encoded(0))
