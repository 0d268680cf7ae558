"""The backplane of many nodes, with logs of this node's own for while it is away.

A run that this node drives goes on when Redis does not answer: its channel gets a *local log*, in
the memory of this process and with an epoch of its own, and readers on this node read that one.
Because the epoch is another one, no position in it can be mistaken for one in the shared log.

Both ways a channel changes its log with a *whole* entry, one that says all there is (``append``'s
``whole``): a local log is shown to readers once it holds one, and the shared log is gone back to
with one. So whoever joins either log finds the whole state in it, whatever the other one has. The
run is asked for that entry by ``Appended.restate``.

Only the holder of a channel's lease gets a local log. What is there of a run in it alone, its end
included, is not ``shared``: it is said again in the shared log.
"""

import asyncio
from collections.abc import Collection
from typing import Final

from hub.backplane.interface import (
    LOG_MAX_ENTRIES,
    READ_BYTES,
    Appended,
    Backplane,
    ControlSink,
    EntrySink,
    Lease,
    LeaseLost,
    LogSlice,
    WhisperSink,
)
from hub.backplane.limits import LogLimits
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.backplane.sinks import call_sink
from hub.faults import Fault
from hub.rounds import Rounds
from hub.telemetry.logs import log
from hub.telemetry.metrics import Metrics

LOOK_S: Final = 0.5
"""How often the backplane is asked whether it is there."""
ANSWER_S: Final = 1.0
"""A backplane that has not answered by then is away."""
LOCAL_BYTES: Final = 64 * 1024 * 1024
"""What all local logs come to at most; the one least recently appended to is lost first."""


class _Local:
    """A channel whose log is this node's own for now.

    ``lease``: of the run that writes it; None once that has ended or lost it. ``open``: it holds a
    whole entry, and readers read it. ``due``: the backplane is back, the next whole entry goes
    there.
    """

    __slots__ = ("due", "epoch", "lease", "open", "ttl_s")

    def __init__(self, lease: Lease, ttl_s: float) -> None:
        self.lease: Lease | None = lease
        self.ttl_s = ttl_s
        self.epoch = ""
        self.open = False
        self.due = False


class StandbyBackplane:
    """``remote``, with local logs while it is away. ``away``: whether it is, as far as is known."""

    def __init__(self, remote: Backplane, metrics: Metrics) -> None:
        self._remote = remote
        self._metrics = metrics
        self._shared = MemoryShared(LogLimits(entries=LOG_MAX_ENTRIES, total_bytes=LOCAL_BYTES))
        self._memory = MemoryBackplane(self._shared)
        self._locals: dict[str, _Local] = {}
        self._held: dict[str, tuple[Lease, float]] = {}
        # Of each channel, who listens, and whether the backplane knows of it.
        self._sinks: dict[str, EntrySink] = {}
        self._subscribed: set[str] = set()
        self._looking = Rounds(
            "look whether Redis is there", self.look, every_s=LOOK_S, first_s=0.0
        )
        self.away = False

    async def start(self) -> None:
        await self._remote.start()
        self._looking.start()

    async def close(self) -> None:
        await self._looking.close()
        await self._remote.close()

    async def ping(self) -> None:
        if self.away or not await self._answers():
            raise Fault("backend_unavailable", "Redis does not answer.")

    # --- whether it is there ---

    async def look(self) -> None:
        """Ask the backplane whether it is there; if it is, see that local logs are gone back from.

        Done by itself every ``LOOK_S``.
        """
        if await self._answers() and self._locals:
            await asyncio.gather(*(self._come_back(*each) for each in tuple(self._locals.items())))

    async def _answers(self) -> bool:
        """Ask the backplane whether it is there, and note it."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._remote.ping()
        except (Fault, TimeoutError) as error:
            if not self.away:
                late = f"no answer within {ANSWER_S:g} s"
                log.warning(
                    "Redis is away", why=error.message if isinstance(error, Fault) else late
                )
            self.away = True
        else:
            if self.away:
                log.info("Redis is back", local_logs=len(self._locals))
            self.away = False
        self._metrics.backplane_away.set(self.away)
        return not self.away

    # --- logs and fan-out ---

    async def append(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        lease: Lease | None = None,
        whole: bool = False,
    ) -> Appended:
        local = self._locals.get(channel)
        if local is None or lease is None:
            try:
                return await self._remote.append(channel, data, key=key, lease=lease)
            except LeaseLost:
                self._lose(lease)
                raise
            except Fault as fault:
                if lease is None or not await self._stands_in(fault, lease):
                    raise
            local = self._locals.get(channel) or self._begin(lease)
        elif whole and local.lease == lease and self._ready(channel, local):
            try:
                appended = await self._remote.append(channel, data, key=key, lease=lease)
            except LeaseLost:
                self._lose(lease)
                raise
            except Fault:
                local.due = False  # away again
            else:
                self._end(channel, local)
                return appended
        return await self._append_here(local, data, key, lease, whole)

    def _ready(self, channel: str, local: _Local) -> bool:
        """Whether the shared log can be gone back to, without a reader here that misses it."""
        return local.due and (channel not in self._sinks or channel in self._subscribed)

    async def _stands_in(self, fault: Fault, lease: Lease) -> bool:
        """Whether a local log takes the place of one that could not be appended to."""
        if fault.reason != "backend_unavailable":
            return False
        # One that answers, and refuses appends (it is full), is not away: to and fro helps nobody.
        if not self.away and await self._answers():
            return False
        held = self._held.get(lease.name)
        return held is not None and held[0] == lease

    def _begin(self, lease: Lease) -> _Local:
        local = self._locals[lease.name] = _Local(lease, self._held[lease.name][1])
        self._switched("local")
        return local

    async def _append_here(
        self, local: _Local, data: bytes, key: str | None, lease: Lease, whole: bool
    ) -> Appended:
        channel = lease.name
        if local.lease != lease:
            raise LeaseLost(channel)
        epoch, seq, duplicate, *_ = await self._memory.append(channel, data, key=key)
        if epoch != local.epoch:  # its beginning, or it was the one to go when all grew too large
            local.epoch = epoch
            local.open = False
        if whole and not local.open:
            local.open = True
            sink = self._sinks.get(channel)
            if sink is not None:
                await self._memory.subscribe(channel, sink)
                call_sink(sink, channel, "", 0, b"")
        return Appended(epoch, seq, duplicate, local.due or not local.open, False)

    async def _come_back(self, channel: str, local: _Local) -> None:
        """The backplane answers: see that the channel goes back to its shared log."""
        try:
            sink = self._sinks.get(channel)
            if sink is not None and channel not in self._subscribed:
                await self._remote.subscribe(channel, sink)
                if channel in self._sinks:
                    self._subscribed.add(channel)
                else:  # it was left meanwhile
                    await self._remote.unsubscribe(channel)
            if local.lease is not None and not local.due:
                await self._remote.renew(local.lease, local.ttl_s)
                local.due = True
        except Fault:
            return
        except LeaseLost:
            self._held.pop(channel, None)
            local.lease = None
        if local.lease is None and self._locals.get(channel) is local:
            self._end(channel, local)

    def _lose(self, lease: Lease | None) -> None:
        """A lease is lost: nothing more is written with it, and what was stays to be read."""
        if lease is None:
            return
        held = self._held.get(lease.name)
        if held is not None and held[0] == lease:
            del self._held[lease.name]
        local = self._locals.get(lease.name)
        if local is not None and local.lease == lease:
            local.lease = None
            if not local.open:
                self._end(lease.name, local)

    def _end(self, channel: str, local: _Local) -> None:
        """The channel's log is the shared one again; who read the local one is told."""
        del self._locals[channel]
        self._shared.sinks.pop(channel, None)
        self._shared.logs.drop(channel)
        self._switched("shared")
        sink = self._sinks.get(channel)
        if sink is not None and local.open:
            call_sink(sink, channel, "", 0, b"")

    def _switched(self, to: str) -> None:
        self._metrics.log_switches.labels(to).inc()
        self._metrics.local_logs.set(len(self._locals))

    def _local(self, channel: str) -> bool:
        local = self._locals.get(channel)
        return local is not None and local.open

    async def read(
        self, channel: str, after: int, limit: int = 1_000, most: int = READ_BYTES
    ) -> LogSlice:
        if not self._local(channel):
            try:
                return await self._remote.read(channel, after, limit, most)
            except Fault:
                if not self._local(channel):
                    raise
        return await self._memory.read(channel, after, limit, most)

    async def discard(self, channel: str) -> None:
        if self._local(channel):
            await self._memory.discard(channel)
        await self._remote.discard(channel)

    async def subscribe(self, channel: str, sink: EntrySink) -> None:
        if not (self._local(channel) and self.away):
            try:
                await self._remote.subscribe(channel, sink)
                self._subscribed.add(channel)
            except Fault:
                if not self._local(channel):
                    raise
        self._sinks[channel] = sink
        if self._local(channel):
            await self._memory.subscribe(channel, sink)

    async def unsubscribe(self, channel: str) -> None:
        self._sinks.pop(channel, None)
        self._subscribed.discard(channel)
        await self._memory.unsubscribe(channel)
        await self._remote.unsubscribe(channel)

    # --- what is not kept ---

    async def whisper(self, channel: str, data: bytes) -> None:
        self._raise_away()
        await self._remote.whisper(channel, data)

    async def overhear(self, channel: str, sink: WhisperSink) -> None:
        self._raise_away()
        await self._remote.overhear(channel, sink)

    async def disregard(self, channel: str) -> None:
        await self._remote.disregard(channel)

    async def attend(
        self,
        channel: str,
        members: Collection[bytes],
        ttl_s: float,
        *,
        leave: Collection[bytes] = (),
    ) -> frozenset[bytes]:
        self._raise_away()
        return await self._remote.attend(channel, members, ttl_s, leave=leave)

    # --- control messages ---

    async def publish(self, topic: str, message: bytes) -> None:
        self._raise_away()
        await self._remote.publish(topic, message)

    async def listen(self, topic: str, sink: ControlSink) -> None:
        await self._remote.listen(topic, sink)

    def _raise_away(self) -> None:
        """A hint that cannot be given now is given up at once: who gives it is being waited for."""
        if self.away:
            raise Fault("backend_unavailable", "Redis is not available now.")

    # --- leases ---

    async def acquire(self, name: str, ttl_s: float) -> Lease | None:
        lease = await self._remote.acquire(name, ttl_s)
        if lease is not None:
            self._held[name] = (lease, ttl_s)
            local = self._locals.get(name)
            if local is not None:  # of a run before
                self._end(name, local)
        return lease

    async def renew(self, lease: Lease, ttl_s: float) -> None:
        try:
            await self._remote.renew(lease, ttl_s)
        except LeaseLost:
            self._lose(lease)
            raise

    async def release(self, lease: Lease) -> None:
        self._lose(lease)
        await self._remote.release(lease)

    # --- queue ---

    async def enqueue(self, queue: str, item: str) -> None:
        self._raise_away()
        await self._remote.enqueue(queue, item)

    async def dequeue(self, queue: str, timeout_s: float) -> str | None:
        return await self._remote.dequeue(queue, timeout_s)

    # --- cache and rate limits ---

    async def cache_get(self, key: str) -> bytes | None:
        self._raise_away()
        return await self._remote.cache_get(key)

    async def cache_set(
        self, key: str, value: bytes, ttl_s: float, *, only_new: bool = False
    ) -> bool:
        self._raise_away()
        return await self._remote.cache_set(key, value, ttl_s, only_new=only_new)

    async def cache_delete(self, key: str) -> None:
        await self._remote.cache_delete(key)

    async def take(self, bucket: str, cost: float, *, rate: float, burst: float) -> int:
        self._raise_away()
        return await self._remote.take(bucket, cost, rate=rate, burst=burst)
