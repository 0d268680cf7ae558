"""Fan-out: one node's live channels, and the readers on it.

Replay and live delivery are one path. A reader that joins is fed from the log, page by page, until
it stands where the node's own live position stands; the check and the switch happen in one turn of
the event loop, so that nothing falls between them. What arrives in a turn is delivered at its end:
the events of a turn are one write for each subscriber, whatever channels they are of. A gap in the
live channel (a pub/sub hiccup) is filled from the log for all readers at once. When the log itself
was lost, readers are told so and join again.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from time import perf_counter
from typing import Any, Final

from hub.backplane.interface import Backplane, LogSlice, Position
from hub.events.delivery import Delivery
from hub.events.live import NOWHERE, LiveChannel, Reader, deliver
from hub.events.outbox import FlushScheduler, broken
from hub.events.position import Since
from hub.events.recovery import Arrival, classify, resume
from hub.events.span import joined
from hub.faults import Fault
from hub.telemetry.logs import log
from hub.telemetry.metrics import Metrics

PAGE: Final = 500
PAGE_BYTES: Final = 256 * 1024
"""Entries read from the log at a time, and what they come to: each replay holds a page."""

AT_HAND_BYTES: Final = 8 * 1024
"""What was missed is read with the question whether the log can go on; so much of it is kept until
the replay begins, which often finds all that it needs. Each subscription that waits holds it.
"""

TOGETHER: Final = 256
TOGETHER_BYTES: Final = 256 * 1024
"""Events that wait for the end of a turn at most, and what they come to: a turn may be long, and
somebody may append in it again and again. A transport that is full gets no more of them than this.
"""

FILL_RETRY_S: Final = 0.5
"""Pause before a gap is tried again while the backplane is away."""


class Join:
    """A subscription that is being made: where it begins, and ``follow`` to let it run.

    ``position`` is where the reader is before ``follow`` delivers anything. ``recovered`` is False
    when ``since`` could not be continued: then take a snapshot and set ``position`` to its own.
    """

    def __init__(self, fanout: "Fanout", channel: LiveChannel, reader: Reader, at: Position | None):
        self._fanout = fanout
        self._channel = channel
        self._reader = reader
        self._closed = False
        self.abandoned = False
        self.answered = False
        """Whether who asked for it was told where it begins."""
        self.reason: str | None = None
        """Why it has ended, when that was before it was answered."""
        self.recovered = at is not None
        self.position = at or channel.at
        self.at_hand: LogSlice | None = None
        """What follows the position in the log, if it is little."""

    @property
    def log(self) -> str:
        """The name of the channel's log, by which the fan-out knows it."""
        return self._channel.name

    async def follow(self) -> None:
        """Deliver what was missed, then join the live readers. Returns when live (or ended)."""
        try:
            await self._fanout._replay(self._channel, self._reader, self)
        finally:
            self.close()

    def abandon(self) -> None:
        """The reader wants it no more: a replay under way delivers nothing further."""
        self.abandoned = True
        self.close()

    def close(self) -> None:
        """Release the channel (idempotent; ``follow`` and ``abandon`` do it by themselves)."""
        if not self._closed:
            self._closed = True
            self._channel.joining -= 1
            self._fanout._tidy(self._channel)


class Fanout:
    """The channels that readers on this node read."""

    def __init__(
        self, backplane: Backplane, metrics: Metrics, scheduler: FlushScheduler | None = None
    ) -> None:
        """``scheduler``: that of the readers' outboxes, if they have any."""
        self._backplane = backplane
        self._metrics = metrics
        self._scheduler = scheduler or FlushScheduler()
        self._arrived: list[tuple[str, str, int, bytes]] = []
        self._arrived_bytes = 0
        self._channels: dict[str, LiveChannel] = {}
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._counted = metrics.deliveries

    async def join(self, name: str, reader: Reader, since: Since) -> Join:
        """Begin a subscription of the log ``name``. Raises Fault("backend_unavailable")."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = LiveChannel(name)
        channel.joining += 1
        try:
            await self._opened(channel)
            after = since.seq if isinstance(since, Position) else 0
            limit = 0 if since is None else PAGE
            log_slice = await self._backplane.read(name, after, limit, AT_HAND_BYTES)
        except BaseException:
            channel.joining -= 1
            self._tidy(channel)
            raise
        at = resume(since, log_slice)
        outcome = "new" if since is None else "recovered" if at is not None else "snapshot"
        self._metrics.resumes.labels(outcome).inc()
        join = Join(self, channel, reader, at)
        if at is None:
            join.position = Position(log_slice.epoch, log_slice.last)
        elif sum(len(entry.data) for entry in log_slice.entries) <= AT_HAND_BYTES:
            join.at_hand = log_slice
        return join

    def leave(self, name: str, reader: Reader) -> None:
        """End a reader's subscription. Not subscribed is fine."""
        channel = self._channels.get(name)
        if channel is not None and channel.unseat(reader):
            self._metrics.subscriptions.dec()
            self._tidy(channel)

    def turned(self, name: str, reader: Reader) -> None:
        """The ``write`` of a reader is another now."""
        channel = self._channels.get(name)
        if channel is not None and channel.unseat(reader):
            channel.seat(reader)

    def follows(self, name: str) -> bool:
        """Whether somebody on this node reads the channel, or is about to."""
        return name in self._channels

    def followed(self) -> list[str]:
        """The channels that somebody on this node reads."""
        return list(self._channels)

    async def close(self) -> None:
        """Stop the tasks. Readers are left to their connections."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- a channel's life on this node ---

    async def _opened(self, channel: LiveChannel) -> None:
        if channel.opening is None:
            channel.opening = self._spawn(self._open(channel))
        opening = channel.opening
        try:
            # Shielded: the opening belongs to all who join, not to the first of them.
            await asyncio.shield(opening)
        finally:
            if opening.done() and channel.at is NOWHERE and channel.opening is opening:
                channel.opening = None  # it failed: the next one to join tries again

    async def _open(self, channel: LiveChannel) -> None:
        closing = self._closing.get(channel.name)
        if closing is not None:
            await asyncio.wait({closing})
        await self._backplane.subscribe(channel.name, self._arrives)
        log_slice = await self._backplane.read(channel.name, 0, 0)
        channel.at = Position(log_slice.epoch, log_slice.last)
        if channel.behind:
            self._fill(channel)

    def _tidy(self, channel: LiveChannel) -> None:
        """Stop reading a channel that nobody reads."""
        if len(channel) or channel.joining or self._channels.get(channel.name) is not channel:
            return
        del self._channels[channel.name]
        if channel.filling is not None:
            channel.filling.cancel()
        task = self._spawn(self._unsubscribe(channel, self._closing.get(channel.name)))
        self._closing[channel.name] = task

    async def _unsubscribe(self, channel: LiveChannel, before: asyncio.Task[None] | None) -> None:
        try:
            pending = {task for task in (before, channel.opening) if task is not None}
            if pending:
                await asyncio.wait(pending)
            await self._backplane.unsubscribe(channel.name)
        except Fault as fault:
            log.warning("could not unsubscribe a channel", channel=channel.name, why=fault.reason)
        finally:
            if self._closing.get(channel.name) is asyncio.current_task():
                del self._closing[channel.name]

    # --- live ---

    def _arrives(self, name: str, epoch: str, seq: int, data: bytes) -> None:
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._take)
        self._arrived.append((name, epoch, seq, data))
        self._arrived_bytes += len(data)
        if len(self._arrived) >= TOGETHER or self._arrived_bytes >= TOGETHER_BYTES:
            self._take()

    def _take(self) -> None:
        """Take in, and deliver, what has arrived in this turn of the loop."""
        if not self._arrived:
            return
        arrived, self._arrived, self._arrived_bytes = self._arrived, [], 0
        found: dict[LiveChannel, list[Delivery]] = {}
        for name, epoch, seq, data in arrived:
            channel = self._channels.get(name)
            if channel is None:
                continue
            if channel.at is NOWHERE or channel.filling is not None:
                # An empty epoch says that something may have been missed: no position satisfies it
                # but the one after the next read, which the loop of _fill_gap makes.
                channel.heard = Position(epoch, seq)
                continue
            arrival = classify(channel.at, epoch, seq)
            if arrival is Arrival.NEXT:
                channel.at = Position(epoch, seq)
                delivery = Delivery(channel.shown, epoch, seq, data)
                if channel in found:
                    found[channel].append(delivery)
                else:
                    found[channel] = [delivery]
            elif arrival is not Arrival.OLD:
                self._fill(channel)
        if found:
            self._deliver(found)

    def _deliver(self, found: Mapping[LiveChannel, Sequence[Delivery]]) -> None:
        if self._scheduler.dirty:
            self._scheduler.flush()  # what was put into an outbox before is not overtaken
        began = perf_counter()
        reached = deliver(found, self._failed)
        self._counted.live(reached, perf_counter() - began)

    def _failed(self, channel: LiveChannel, reader: Reader, error: Exception) -> None:
        """A reader lacks an event: it must not go on behind the gap."""
        broken(error)
        self.leave(channel.name, reader)
        reader.ended(channel.shown, "internal_error")

    def _fill(self, channel: LiveChannel) -> None:
        if channel.filling is None:
            self._metrics.gap_fills.inc()
            channel.filling = self._spawn(self._fill_gap(channel))

    def _deliveries(self, channel: LiveChannel, page: LogSlice) -> list[Delivery]:
        """What a page of the log holds, the deltas of a message joined."""
        deliveries = joined(
            [Delivery(channel.shown, page.epoch, entry.seq, entry.data) for entry in page.entries]
        )
        self._metrics.joined.labels("log").inc(len(page.entries) - len(deliveries))
        return deliveries

    async def _fill_gap(self, channel: LiveChannel) -> None:
        """Read on from the live position until the log has no more, delivering to all readers."""
        try:
            while True:
                at, channel.heard = channel.at, NOWHERE
                try:
                    page = await self._backplane.read(channel.name, at.seq, PAGE, PAGE_BYTES)
                except Fault:
                    await asyncio.sleep(FILL_RETRY_S)
                    continue
                if resume(at, page) is None:
                    self._lost(channel, page)
                else:
                    deliveries = self._deliveries(channel, page)
                    if deliveries:
                        channel.at = deliveries[-1].position
                        self._deliver({channel: deliveries})
                # Also after a loss: what was heard during the read comes after what it found.
                if channel.at.seq >= page.last and not channel.behind:
                    break
        except Exception as error:
            broken(error)
            self._end(channel, "internal_error")  # or they would wait behind the gap for ever
        finally:
            channel.filling = None

    def _lost(self, channel: LiveChannel, log_slice: LogSlice) -> None:
        """The log was lost, or trimmed past us: readers join again."""
        channel.at = Position(log_slice.epoch, log_slice.last)
        self._end(channel, "resume_gap")

    def _end(self, channel: LiveChannel, reason: str) -> None:
        """End the subscriptions of all who read the channel."""
        readers = channel.readers
        channel.swift.clear()
        channel.thorough.clear()
        self._metrics.subscriptions.dec(len(readers))
        for reader in readers:
            reader.ended(channel.shown, reason)
        self._tidy(channel)

    # --- replay ---

    async def _replay(self, channel: LiveChannel, reader: Reader, join: Join) -> None:
        at = join.position
        while not self._is_live(channel, at):
            await reader.room()
            page, join.at_hand = join.at_hand, None
            if page is None:
                page = await self._backplane.read(channel.name, at.seq, PAGE, PAGE_BYTES)
            if join.abandoned:
                return
            if resume(at, page) is None:
                reader.ended(channel.shown, "resume_gap")
                return
            deliveries = self._deliveries(channel, page)
            for delivery in deliveries:
                await reader.room()  # for each: a page of long events is more than an outbox holds
                if join.abandoned:
                    return
                reader.deliver(delivery)
                at = delivery.position
            self._counted.replayed += len(deliveries)
            self._take()
            if at.seq >= page.last and (at.seq > channel.at.seq or at.epoch != channel.at.epoch):
                # The log is ahead of what pub/sub has brought us: let the others catch up too.
                self._fill(channel)
            if channel.filling is not None:
                await asyncio.wait({channel.filling})
        if join.abandoned:
            return
        channel.seat(reader)
        self._metrics.subscriptions.inc()

    def _is_live(self, channel: LiveChannel, at: Position) -> bool:
        """Whether who has read up to there misses nothing from now on."""
        self._take()
        return at == channel.at and channel.filling is None
