"""Presence: who looks at a conversation now, and who types. The node's part of it.

A connection takes a *seat* in a channel to be seen there and to see others; channels in which
nobody sits cost nothing. What is known of a channel is its ``Roster``. It is told by whispers of
other nodes, and put right each time that this node renews its own members on the backplane, so that
whispers may be lost, and a node that has died is noticed by every other node for itself: its
members are not renewed, and run out. Nothing of this is in the channel's log.
"""

import asyncio
import time
from collections.abc import Collection, Coroutine
from contextlib import suppress
from math import inf
from typing import Any, Final

from hub.backplane.interface import Backplane
from hub.events.agenda import Agenda
from hub.events.roster import (
    TYPING_S,
    Change,
    Present,
    Roster,
    Whisper,
    WhisperKind,
)
from hub.events.seat import Aside, Onlooker, Room, Seat
from hub.events.vocabulary import presence
from hub.faults import Fault
from hub.telemetry.logs import log
from hub.telemetry.metrics import Metrics

RENEWALS: Final = 3
"""How often a member is renewed in its time to live."""
TYPING_EVERY_S: Final = 2.0
"""Typing that was passed on so recently need not be passed on again."""
CLOSE_S: Final = 2.0
"""How long a node that ends tries to take its members out."""


class Presence:
    """Who is present in the channels of the node ``node``.

    Its members run out ``ttl_s`` after it has died. One timer serves all channels.
    """

    def __init__(self, backplane: Backplane, metrics: Metrics, node: str, ttl_s: float) -> None:
        self._backplane = backplane
        self._metrics = metrics
        self._node = node
        self._ttl_s = ttl_s
        self._renew_s = ttl_s / RENEWALS
        self._rooms: dict[str, Room] = {}
        self._agenda = Agenda(self._wake)
        self._tasks: set[asyncio.Task[None]] = set()
        self._away = False

    async def sit(self, channel: str, user_id: str, name: str, onlooker: Onlooker) -> Seat:
        """Take a seat: be present, and be told of others. While the backplane is away nobody else
        is known, and the seat is taken all the same.
        """
        while True:
            room = self._rooms.get(channel)
            if room is None:
                room = self._rooms[channel] = Room(channel, Roster(self._node))
            async with room.lock:
                if room.closed:
                    continue
                seat = Seat(self, room, user_id, onlooker, _now())
                room.seats[seat] = None
                room.roster.sit(user_id, name, time.time_ns() // 1_000_000)
                try:
                    if not room.roster.held(user_id):
                        await self._exchange(room)
                except Fault as fault:
                    if fault.reason != "backend_unavailable":
                        seat.leave()
                        raise
                    self._unknown(fault)  # the others are told when they are known again
                except BaseException:
                    seat.leave()
                    raise
                return seat

    async def look(self, channel: str) -> list[Present]:
        """Who is present in a channel, whether or not anybody of this node sits there. Who types is
        not known here. Raises Fault("backend_unavailable").
        """
        roster = Roster("")
        roster.settle(roster.plan(0), await self._backplane.attend(channel, (), self._ttl_s))
        return roster.present()

    async def close(self) -> None:
        """Take this node's members out, without a word: whoever comes back elsewhere within
        seconds is no news, and other nodes see who does not.
        """
        self._agenda.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        rooms, self._rooms = list(self._rooms.values()), {}
        emptied = [asyncio.create_task(self._empty(room)) for room in rooms]
        if emptied:
            # Where it fails, they run out.
            _, late = await asyncio.wait(emptied, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _empty(self, room: Room) -> None:
        room.roster.empty()
        self._count(room)
        leave = [member.encode() for member in room.roster.plan(0).leave]
        with suppress(Fault):
            await self._backplane.attend(room.channel, (), self._ttl_s, leave=leave)

    # --- seats ---

    def leave(self, room: Room, seat: Seat, *, barred: bool) -> None:
        """A seat is free; ``barred``: whoever had it may not be here any more."""
        now = _now()
        del room.seats[seat]
        room.roster.stand(seat.user_id, now, barred=barred)
        if seat.typing_until > now and not self._types(room, seat.user_id, now):
            room.typed.pop(seat.user_id, None)
            self._spawn(self._say(room, room.roster.of("silent", seat.user_id)))
        self._schedule(room)

    def tell(self, room: Room, changes: Collection[Change], seats: Collection[Seat]) -> None:
        """Tell these seats what has changed, each event framed once; nobody is told of themself."""
        for change in changes:
            who = change.member
            event = presence(change.kind, who.user_id, who.name, who.since, change.typing)
            aside = Aside(room.channel, event)
            told = 0
            for seat in seats:  # one whose outbox overflows leaves at once
                if seat.begun and not seat.left and seat.user_id != who.user_id:
                    seat.deliver(aside)
                    told += 1
            self._metrics.presence_events.labels(change.kind).inc(told)

    # --- typing ---

    async def type(self, room: Room, seat: Seat, typing: bool) -> None:
        """Pass on that somebody types, or does no more, unless it is known."""
        now = _now()
        user_id = seat.user_id
        if typing:
            known = self._types(room, user_id, now)
            if not known or now - room.typed.get(user_id, -inf) >= TYPING_EVERY_S:
                wait_ms = seat.wait_ms(now)
                if wait_ms:
                    told = {"retry_after_ms": wait_ms}
                    raise Fault("rate_limited", "Too many changes of typing.", details=told)
                await self._insist(room, "typing", user_id)
                room.typed[user_id] = now
            seat.typing_until = now + TYPING_S
        elif seat.typing_until > now:
            seat.typing_until = 0.0
            if not self._types(room, user_id, now):
                room.typed.pop(user_id, None)
                await self._insist(room, "silent", user_id)

    async def _insist(self, room: Room, kind: WhisperKind, user_id: str) -> None:
        for whisper in room.roster.of(kind, user_id):
            await self._backplane.whisper(room.channel, whisper.encode())

    def _types(self, room: Room, user_id: str, now: float) -> bool:
        return any(seat.user_id == user_id and seat.typing_until > now for seat in room.seats)

    # --- the backplane ---

    async def _exchange(self, room: Room) -> None:
        """Renew this node's members, see the others, and tell those whom it concerns. Under the
        room's lock. Raises Fault("backend_unavailable").
        """
        roster, now = room.roster, _now()
        room.renew_at = now + self._renew_s
        plan = roster.plan(now)
        self._count(room)
        try:
            if not room.overheard:
                await self._backplane.overhear(room.channel, self._overheard)
                room.overheard = True
            found = await self._backplane.attend(
                room.channel,
                [member.encode() for member in plan.stay],
                self._ttl_s,
                leave=[member.encode() for member in plan.leave],
            )
        except BaseException:
            roster.give_up()
            raise
        finally:
            self._schedule(room)
        changes, whispers = roster.settle(plan, found)
        self.tell(room, changes, tuple(room.seats))
        await self._say(room, whispers)

    async def _say(self, room: Room, whispers: Collection[Whisper]) -> None:
        """Whisper, if it can be: what is lost, other nodes find out when they look."""
        with suppress(Fault):
            for whisper in whispers:
                await self._backplane.whisper(room.channel, whisper.encode())

    def _overheard(self, channel: str, data: bytes) -> None:
        room = self._rooms.get(channel)
        if room is None:
            return
        if not data:
            room.renew_at = _now()  # something may have been missed: look again
        elif (whisper := Whisper.decode(data)) is not None:
            self.tell(room, room.roster.hear(whisper, _now()), tuple(room.seats))
        self._schedule(room)

    async def _renew(self, room: Room) -> None:
        try:
            async with room.lock:
                if room.closed:
                    return
                try:
                    await self._exchange(room)
                    self._unknown(None)
                except Fault as fault:
                    self._unknown(fault)
                if not room.roster.own:
                    await self._backplane.disregard(room.channel)
                    room.closed = True
                    self._agenda.drop(room)
                    del self._rooms[room.channel]
        finally:
            room.renewing = False
            self._schedule(room)

    def _unknown(self, fault: Fault | None) -> None:
        """Say once that the backplane is away, and that it is back."""
        if fault is not None and not self._away:
            log.warning("who is present is not known for now", why=fault.reason)
        elif fault is None and self._away:
            log.info("who is present is known again")
        self._away = fault is not None

    def _count(self, room: Room) -> None:
        members = len(room.roster.own)
        self._metrics.presence_members.inc(members - room.counted)
        room.counted = members

    # --- time ---

    def _schedule(self, room: Room) -> None:
        """See that the room is woken when something is due there."""
        if room.closed:
            return
        due = room.roster.next_lapse()
        if not room.renewing:
            due = min(due, room.renew_at, room.roster.next_leave())
        self._agenda.set(room, due)

    def _wake(self, room: Room) -> None:
        now = _now()
        self.tell(room, room.roster.lapse(now), tuple(room.seats))
        if not room.renewing and min(room.renew_at, room.roster.next_leave()) <= now:
            room.renewing = True
            self._spawn(self._renew(room))
        self._schedule(room)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _now() -> float:
    return asyncio.get_running_loop().time()
