"""The channels that one connection follows, and how each of them ends."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from hub.events.fanout import Fanout, Join
from hub.events.live import Reader
from hub.events.seat import Seat
from hub.faults import Fault
from hub.protocol.limits import MAX_SUBSCRIPTIONS

REPLAYS: Final = 4
"""Channels of one connection that are replayed at the same time."""

Told = Callable[[str, str], None]
"""Called as ``told(channel, reason)`` when the hub has ended a subscription."""
Forget = Callable[[str], None]
"""Drops what waits for the reader of a channel."""


class Subscriptions:
    """The subscriptions of one ``reader``; iterates over a copy of their channels."""

    __slots__ = ("_fanout", "_forget", "_joins", "_reader", "_replays", "_seats", "_told")

    def __init__(self, fanout: Fanout, reader: Reader, told: Told, forget: Forget) -> None:
        self._fanout = fanout
        self._reader = reader
        self._told = told
        self._forget = forget
        self._joins: dict[str, Join] = {}
        self._seats: dict[str, Seat] = {}  # of those with presence
        self._replays: asyncio.Semaphore | None = None  # most connections idle without

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._joins))

    def __len__(self) -> int:
        return len(self._joins)

    def __contains__(self, channel: object) -> bool:
        return channel in self._joins

    def add(self, channel: str, join: Join, seat: Seat | None) -> None:
        """Note a subscription. Raises Fault conflict, rate_limited."""
        if channel in self._joins:
            raise Fault("conflict", "Already subscribed; unsubscribe first.")
        if len(self._joins) >= MAX_SUBSCRIPTIONS:
            raise Fault("rate_limited", f"{MAX_SUBSCRIPTIONS} channels at most; leave one first.")
        self._joins[channel] = join
        if seat is not None:
            self._seats[channel] = seat

    def seat(self, channel: str) -> Seat | None:
        """The seat of a subscription with presence."""
        return self._seats.get(channel)

    async def follow(
        self, channel: str, join: Join, check: Callable[[str], Awaitable[None]]
    ) -> None:
        """Let a subscription's events flow, now that it is answered; if it has ended meanwhile, say
        so.

        ``check`` ends it if it is not allowed: what was allowed when it was asked for may have been
        taken away before it was noted here.
        """
        join.answered = True
        if self._joins.get(channel) is not join:
            join.close()
            if join.reason is not None:
                self._told(channel, join.reason)
            return
        try:
            await check(channel)
            if self._joins.get(channel) is not join:
                return
            seat = self._seats.get(channel)
            if seat is not None:
                seat.begin()
            await self._replayed(channel, join)
        except Fault as fault:
            if self._joins.get(channel) is join:
                self.end(channel, fault.reason)

    async def _replayed(self, channel: str, join: Join) -> None:
        """Take in what was missed, a few channels at a time: each holds a page of its log."""
        if self._replays is None:
            self._replays = asyncio.Semaphore(REPLAYS)
        async with self._replays:
            if self._joins.get(channel) is join:
                await join.follow()

    def turned(self) -> None:
        """The ``write`` of the reader is another now."""
        for join in self._joins.values():
            self._fanout.turned(join.log, self._reader)

    def drop(self, channel: str, *, barred: bool = False) -> bool:
        """End a subscription without a word; whether there was one."""
        join = self._remove(channel, barred=barred)
        if join is None:
            return False
        join.abandon()
        self._fanout.leave(join.log, self._reader)
        return True

    def end(self, channel: str, reason: str) -> bool:
        """End a subscription that is not allowed any more, and say why; whether there was one.

        Of one that is not answered yet that is said after its answer: a client that was told first
        would believe from then on that it follows.
        """
        join = self._joins.get(channel)
        # What cannot be known for a while may come back in the next moment.
        if join is None or not self.drop(channel, barred=reason != "backend_unavailable"):
            return False
        if join.answered:
            self._forget(channel)
            self._told(channel, reason)
        else:
            join.reason = reason
        return True

    def ended(self, channel: str, reason: str) -> None:
        """The fan-out has ended a subscription; say why."""
        if self._remove(channel) is not None:
            self._told(channel, reason)

    def _remove(self, channel: str, *, barred: bool = False) -> Join | None:
        seat = self._seats.pop(channel, None)
        if seat is not None:
            seat.leave(barred=barred)
        return self._joins.pop(channel, None)
