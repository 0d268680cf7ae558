"""A reader that remembers and checks, and a backplane whose messages and answers can be held."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from hub.backplane.interface import READ_BYTES, Backplane, EntrySink, LogSlice, Position
from hub.events.delivery import Delivery
from hub.events.fanout import Fanout, Join
from hub.events.position import Since

CHANNEL = "conversation:c_1"
DEADLINE_S = 10.0


class Follower:
    """A ``Reader`` of one subscription. It raises AssertionError at the first wrong delivery: one
    that is not the next of its log, or that comes after its end.
    """

    def __init__(self) -> None:
        self.seen: list[Delivery] = []
        self.at: Position | None = None
        self.reason: str | None = None
        self.join: Join | None = None
        self.gone = False
        self.faults: list[str] = []
        self.on_deliver: Callable[[], None] = lambda: None
        self._room = asyncio.Event()
        self._room.set()
        self._more = asyncio.Event()

    @property
    def seqs(self) -> list[int]:
        return [delivery.seq for delivery in self.seen]

    def stall(self) -> None:
        self._room.clear()

    def read_on(self) -> None:
        self._room.set()

    # --- Reader ---

    @property
    def write(self) -> Callable[[bytes], object] | None:
        return None

    def deliver(self, delivery: Delivery) -> None:
        if self.gone or self.reason is not None:
            self.faults.append(f"delivered {delivery.position} after the end")
        elif self.at is None or delivery.position != Position(self.at.epoch, self.at.seq + 1):
            self.faults.append(f"delivered {delivery.position} at {self.at}")
        self.at = delivery.position
        self.seen.append(delivery)
        self._more.set()
        self.on_deliver()

    async def room(self) -> None:
        await self._room.wait()

    def ended(self, channel: str, reason: str) -> None:
        if self.gone or self.reason is not None:
            self.faults.append(f"ended with {reason} after the end")
        self.reason = reason
        self._more.set()

    # --- what a connection does ---

    async def begin(self, fanout: Fanout, since: Since, channel: str = CHANNEL) -> Join:
        """Join; ``follow`` is still to come."""
        self.join = await fanout.join(channel, self, since)
        self.at = self.join.position
        return self.join

    async def follow(self, fanout: Fanout, since: Since, channel: str = CHANNEL) -> "Follower":
        """Join and become live."""
        await (await self.begin(fanout, since, channel)).follow()
        return self

    def leave(self, fanout: Fanout, channel: str = CHANNEL) -> None:
        self.gone = True
        if self.join is not None:
            self.join.abandon()
        fanout.leave(channel, self)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not true():
                self._more.clear()
                await self._more.wait()

    async def reaches(self, seq: int) -> None:
        """Wait until the entry ``seq`` was delivered, and no wrong one."""
        await self.until(lambda: self.at is not None and self.at.seq >= seq)
        assert self.faults == []


class Held:
    """A backplane in front of a real one. ``hold`` keeps published entries back until ``release``
    or ``drop``; ``pausing`` holds the answers of reads; ``turns`` makes each read take so many
    turns of the loop more, after its answer was made.
    """

    def __init__(self, real: Backplane) -> None:
        self._real = real
        self._sinks: dict[str, EntrySink] = {}
        self.hold = False
        self.kept: deque[tuple[str, str, int, bytes]] = deque()
        self.dropping: Callable[[int], bool] = lambda seq: False
        self.turns: deque[int] = deque()
        self.reads = 0
        self.answered = asyncio.Event()
        self._go = asyncio.Event()
        self._go.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def subscribe(self, channel: str, sink: EntrySink) -> None:
        self._sinks[channel] = sink
        await self._real.subscribe(channel, self._published)

    async def unsubscribe(self, channel: str) -> None:
        await self._real.unsubscribe(channel)
        self._sinks.pop(channel, None)

    async def read(
        self, channel: str, after: int, limit: int = 1_000, most: int = READ_BYTES
    ) -> LogSlice:
        self.reads += 1
        answer = await self._real.read(channel, after, limit, most)
        self.answered.set()
        await self._go.wait()
        for _ in range(self.turns.popleft() if self.turns else 0):
            await asyncio.sleep(0)
        return answer

    def pause_reads(self) -> None:
        """Make no answer known; ``answered`` is set when the next one was made."""
        self.answered.clear()
        self._go.clear()

    def resume_reads(self) -> None:
        self._go.set()

    def release(self, count: int = 1_000_000) -> None:
        """Let the oldest messages that are kept through."""
        for _ in range(min(count, len(self.kept))):
            self._pass(*self.kept.popleft())

    def drop(self, count: int = 1_000_000) -> None:
        """Lose the oldest messages that are kept."""
        for _ in range(min(count, len(self.kept))):
            self.kept.popleft()

    def repair(self) -> None:
        """Say, as a backplane does, that messages may have been missed."""
        for channel, sink in list(self._sinks.items()):
            sink(channel, "", 0, b"")

    def _published(self, channel: str, epoch: str, seq: int, data: bytes) -> None:
        if epoch and self.dropping(seq):
            return
        if self.hold:
            self.kept.append((channel, epoch, seq, data))
        else:
            self._pass(channel, epoch, seq, data)

    def _pass(self, channel: str, epoch: str, seq: int, data: bytes) -> None:
        sink = self._sinks.get(channel)
        if sink is not None:
            sink(channel, epoch, seq, data)
