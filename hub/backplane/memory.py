"""The backplane of one process: plain dictionaries, and sinks that are called directly.

``MemoryBackplane()`` is a node alone. Several nodes of one process, in tests, share a store:
``MemoryBackplane(shared)`` with one ``MemoryShared``.
"""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from itertools import islice

from hub.backplane.expiring import Expiring
from hub.backplane.interface import (
    READ_BYTES,
    Appended,
    ControlSink,
    Entry,
    EntrySink,
    Lease,
    LeaseLost,
    LogSlice,
    WhisperSink,
)
from hub.backplane.limits import LogLimits
from hub.backplane.memory_logs import Log, MemoryLogs, snug
from hub.backplane.sinks import call_sink

FENCE_S = 600.0
"""How long a lapsed lease can still be renewed, if nobody has taken it since."""
NEARLY = 1e-9
"""Tokens that rounding may take away from a bucket."""


class _Queue:
    """What waits in a queue, in order, and who waits for it."""

    __slots__ = ("items", "takers")

    def __init__(self) -> None:
        self.items: OrderedDict[str, None] = OrderedDict()
        self.takers: deque[asyncio.Future[str]] = deque()

    def give(self, item: str) -> bool:
        """Hand the item to who waits longest; False if nobody waits."""
        while self.takers:
            taker = self.takers.popleft()
            if not taker.done():
                taker.set_result(item)
                return True
        return False


class MemoryShared:
    """What the nodes of one process share. ``clock`` answers seconds that never go back."""

    def __init__(
        self, limits: LogLimits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits or LogLimits()
        self.clock = clock
        self.logs = MemoryLogs(self.limits)
        self.sinks: dict[str, dict[int, EntrySink]] = {}
        self.listeners: dict[str, list[tuple[int, ControlSink]]] = {}
        self.whisperers: dict[str, dict[int, WhisperSink]] = {}
        self.present: Expiring[str, dict[bytes, float]] = Expiring()  # until when, by member
        self.leases: Expiring[str, Lease] = Expiring()
        self.fences: Expiring[str, Lease] = Expiring()  # by whom a lease was taken last
        self.queues: dict[str, _Queue] = {}
        self.cache: Expiring[str, bytes] = Expiring()
        self.buckets: Expiring[str, tuple[float, float]] = Expiring()
        self.token = 0
        self.outgoing: deque[tuple[str, str, Entry]] = deque()
        self.delivering = False

    def clear(self) -> None:
        """Lose everything that is held, as a Redis that was flushed; subscriptions stay."""
        self.logs.clear()
        self.present.clear()
        self.leases.clear()
        self.fences.clear()
        self.cache.clear()
        self.buckets.clear()
        for queue in self.queues.values():
            queue.items.clear()

    def deliver(self, channel: str, epoch: str, entry: Entry) -> None:
        """Call the channel's sinks; what a sink appends is delivered after what is under way."""
        if self.delivering:
            self.outgoing.append((channel, epoch, entry))
            return
        self.delivering = True
        try:
            self._call_sinks(channel, epoch, entry)
            while self.outgoing:
                self._call_sinks(*self.outgoing.popleft())
        finally:
            self.delivering = False

    def _call_sinks(self, channel: str, epoch: str, entry: Entry) -> None:
        sinks = self.sinks.get(channel)
        if sinks:
            for sink in tuple(sinks.values()):
                call_sink(sink, channel, epoch, entry.seq, entry.data)


class MemoryBackplane:
    """A node on a ``MemoryShared``, its own unless one is given. Nothing here waits, but
    ``dequeue``.
    """

    def __init__(self, shared: MemoryShared | None = None) -> None:
        self._shared = shared or MemoryShared()

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        shared, me = self._shared, id(self)
        for channel in [name for name, sinks in shared.sinks.items() if me in sinks]:
            self._forget(channel)
        for channel in [name for name, sinks in shared.whisperers.items() if me in sinks]:
            await self.disregard(channel)
        for topic, sinks in tuple(shared.listeners.items()):
            shared.listeners[topic] = [pair for pair in sinks if pair[0] != me]

    async def ping(self) -> None:
        pass

    # --- logs and fan-out ---

    async def append(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        lease: Lease | None = None,
        whole: bool = False,  # a log that all share needs no beginning
    ) -> Appended:
        shared = self._shared
        now = shared.clock()
        if lease is not None:
            if lease.name != channel:
                raise ValueError("an append is fenced by the lease of its channel's name")
            self._check(lease, now)
        log = shared.logs.begun(channel, now)
        if key is not None:
            first = self._known(log, key, now)
            if first is not None:
                return Appended(log.epoch, first, True)
        entry = shared.logs.append(channel, log, data, now)
        if channel in shared.sinks:
            shared.deliver(channel, log.epoch, entry)
        return Appended(log.epoch, entry.seq, False)

    def _known(self, log: Log, key: str, now: float) -> int | None:
        # All keys live equally long, so the oldest are in front.
        keys = log.keys
        while keys and next(iter(keys.values()))[0] <= now:
            keys.popitem(last=False)
        held = keys.get(key)
        if held is not None:
            return held[1]
        keys[key] = (now + self._shared.limits.key_ttl_s, log.seq + 1)
        return None

    async def read(
        self, channel: str, after: int, limit: int = 1_000, most: int = READ_BYTES
    ) -> LogSlice:
        log = self._shared.logs.begun(channel, self._shared.clock())
        first = log.seq - len(log.entries) + 1
        start = max(after + 1 - first, 0)
        entries: list[Entry] = []
        size = 0
        for entry in islice(log.entries, start, start + limit):
            size += len(entry.data)
            if size > most and entries:
                break
            entries.append(entry)
        return LogSlice(log.epoch, first, log.seq, tuple(entries))

    async def discard(self, channel: str) -> None:
        self._shared.logs.drop(channel)

    async def subscribe(self, channel: str, sink: EntrySink) -> None:
        self._shared.sinks.setdefault(channel, {})[id(self)] = sink

    async def unsubscribe(self, channel: str) -> None:
        self._forget(channel)

    def _forget(self, channel: str) -> None:
        sinks = self._shared.sinks.get(channel)
        if sinks is not None:
            sinks.pop(id(self), None)
            if not sinks:
                del self._shared.sinks[channel]

    # --- what is not kept: whispers, and who is present ---

    async def whisper(self, channel: str, data: bytes) -> None:
        data = snug(data)  # a reader that is slow holds it
        for sink in tuple(self._shared.whisperers.get(channel, {}).values()):
            call_sink(sink, channel, data)

    async def overhear(self, channel: str, sink: WhisperSink) -> None:
        self._shared.whisperers.setdefault(channel, {})[id(self)] = sink

    async def disregard(self, channel: str) -> None:
        sinks = self._shared.whisperers.get(channel)
        if sinks is not None:
            sinks.pop(id(self), None)
            if not sinks:
                del self._shared.whisperers[channel]

    async def attend(
        self,
        channel: str,
        members: Collection[bytes],
        ttl_s: float,
        *,
        leave: Collection[bytes] = (),
    ) -> frozenset[bytes]:
        shared = self._shared
        now = shared.clock()
        held = shared.present.get(channel, now) or {}
        held = {member: until for member, until in held.items() if until > now}
        before = frozenset(held)
        held.update(dict.fromkeys(map(snug, members), now + ttl_s))
        for member in leave:
            held.pop(member, None)
        if held:
            shared.present.put(channel, held, max(held.values()), now)
        else:
            shared.present.drop(channel)
        return before

    # --- control messages ---

    async def publish(self, topic: str, message: bytes) -> None:
        for _, sink in tuple(self._shared.listeners.get(topic, ())):
            call_sink(sink, message)

    async def listen(self, topic: str, sink: ControlSink) -> None:
        self._shared.listeners.setdefault(topic, []).append((id(self), sink))

    # --- leases ---

    async def acquire(self, name: str, ttl_s: float) -> Lease | None:
        shared = self._shared
        now = shared.clock()
        if shared.leases.get(name, now) is not None:
            return None
        shared.token += 1
        lease = Lease(name, shared.token)
        shared.leases.put(name, lease, now + ttl_s, now)
        shared.fences.put(name, lease, now + ttl_s + FENCE_S, now)
        return lease

    async def renew(self, lease: Lease, ttl_s: float) -> None:
        shared = self._shared
        now = shared.clock()
        if shared.fences.get(lease.name, now) != lease:
            raise LeaseLost(lease.name)
        shared.leases.put(lease.name, lease, now + ttl_s, now)
        shared.fences.put(lease.name, lease, now + ttl_s + FENCE_S, now)

    async def release(self, lease: Lease) -> None:
        shared = self._shared
        now = shared.clock()
        if shared.fences.get(lease.name, now) == lease:
            shared.fences.drop(lease.name)
            shared.leases.drop(lease.name)

    def _check(self, lease: Lease, now: float) -> None:
        if self._shared.leases.get(lease.name, now) != lease:
            raise LeaseLost(lease.name)

    # --- queue ---

    async def enqueue(self, queue: str, item: str) -> None:
        held = self._shared.queues.setdefault(queue, _Queue())
        if item not in held.items and not held.give(item):
            held.items[item] = None

    async def dequeue(self, queue: str, timeout_s: float) -> str | None:
        held = self._shared.queues.setdefault(queue, _Queue())
        if held.items:
            return held.items.popitem(last=False)[0]
        taker: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        held.takers.append(taker)
        try:
            await asyncio.wait({taker}, timeout=timeout_s)
        except asyncio.CancelledError:
            if not taker.done():
                held.takers.remove(taker)
            elif not held.give(taker.result()):  # given to us in the moment of our cancellation
                held.items[taker.result()] = None
                held.items.move_to_end(taker.result(), last=False)
            raise
        if taker.done():
            return taker.result()
        held.takers.remove(taker)
        return None

    # --- cache and rate limits ---

    async def cache_get(self, key: str) -> bytes | None:
        return self._shared.cache.get(key, self._shared.clock())

    async def cache_set(
        self, key: str, value: bytes, ttl_s: float, *, only_new: bool = False
    ) -> bool:
        shared = self._shared
        now = shared.clock()
        if only_new and shared.cache.get(key, now) is not None:
            return False
        shared.cache.put(key, snug(value), now + ttl_s, now)
        return True

    async def cache_delete(self, key: str) -> None:
        self._shared.cache.drop(key)

    async def take(self, bucket: str, cost: float, *, rate: float, burst: float) -> int:
        shared = self._shared
        now = shared.clock()
        cost = min(cost, burst)
        tokens, since = shared.buckets.get(bucket, now) or (burst, now)
        tokens = min(burst, tokens + (now - since) * rate)
        wait_ms = 0
        if tokens + NEARLY >= cost:
            tokens = min(burst, tokens - cost)
        else:
            wait_ms = math.ceil((cost - tokens) / rate * 1000)
        # After this long it is full again, which is how an unknown bucket begins.
        shared.buckets.put(bucket, (tokens, now), now + burst / rate + 1, now)
        return wait_ms
